"""From the data section of a config to a tokeniser and token stores, prepared once and cached by content.

The key of a prepared folder is a hash of the bytes of every input file and of the settings that decide the
result. Paths, weights and `train.max_length` are not in it: a corpus may move, and the others apply later.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from mt.atomic import atomic_folder, write_text
from mt.config import Config, CorpusConfig, DataConfig
from mt.corpus.cleaning import CleaningReport, clean, pair_hash
from mt.corpus.store import (
    StoreWriter,
    TokenStore,
    check_manifest,
    checksum,
    create_store,
    map_store,
    open_store,
    write_manifest,
)
from mt.corpus.text import file_form, input_files, read_lines, read_pairs
from mt.corpus.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from mt.errors import UserError
from mt.progress import message, progress_bar

_FORMAT = 1  # raise it when the same input no longer gives the same folder
_CHUNK = 10_000  # pairs tokenised at once; part of what a sampled epoch looks like


@dataclass
class Prepared:
    """What training needs of the data.

    Attributes:
        tokenizer: learnt from the cleaned training text, or the one that was given.
        train, valid: token stores; valid always with its texts.
        cleaning: the cleaning report, as `cleaning.json` holds it.
        fingerprints: hashes of the training, validation and test text and of the tokeniser.
        folder: the prepared folder in the cache.
    """

    tokenizer: Tokenizer
    train: TokenStore
    valid: TokenStore
    cleaning: dict[str, Any]
    fingerprints: dict[str, str]
    folder: Path


def prepare(config: Config, tokenizer: Tokenizer | None = None) -> Prepared:
    """Cleans and tokenises the data of a run, or finds it in the cache.

    Args:
        config: the run.
        tokenizer: encode with this one (fine-tuning) and do not learn one.

    Raises:
        UserError: whatever is wrong with the input or the cache folder, in one line.
    """
    cache = Path(config.data.cache) if config.data.cache else Path(config.run_dir).parent / "cache"
    texts = {
        "train": _fingerprint(config.data.train, config.data),
        "valid": _fingerprint(config.data.valid, config.data),
        "test": _fingerprint(config.data.test, config.data),
    }
    folder = cache / _key(config, texts, tokenizer)
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(cache, folder.name):
                if not folder.exists():
                    with atomic_folder(folder) as building:
                        _build(building, config, tokenizer)
        except OSError as error:
            raise UserError(
                f"{error.filename or cache}: {error.strerror or error}; prepared data goes into {cache}: give "
                "another folder with --data.cache FOLDER"
            ) from None
    return _open(folder, config, texts)


def epoch_store(prepared: Prepared, config: Config, epoch: int) -> TokenStore:
    """The training store of one epoch.

    Without subword sampling it is `prepared.train`. With it, the text is segmented afresh, a pure function of
    the text, the tokeniser, `config.seed` and the epoch. The new store lies in a nameless file beside the
    prepared folder, which goes when the store goes.
    """
    if config.tokenizer.sampling == 0:
        return prepared.train
    cache = prepared.folder.parent
    try:
        # in the usual temporary folder if the cache can only be read
        with tempfile.TemporaryFile(dir=cache if os.access(cache, os.W_OK) else None) as file:
            _segment_into(file, prepared, config, epoch)
            store = map_store(file)
    except OSError as error:
        raise UserError(
            f"{cache}: the segmentation of epoch {epoch} cannot be written ({error.strerror}); "
            "make room, or give another folder with --data.cache FOLDER"
        ) from None
    store.weights = prepared.train.weights
    return store


def _segment_into(file: Any, prepared: Prepared, config: Config, epoch: int) -> None:
    settings, train, tokenizer = config.tokenizer, prepared.train, prepared.tokenizer
    with (
        StoreWriter(file, with_text=False) as writer,
        progress_bar(len(train), "segmenting", "pair", leave=False) as bar,
    ):
        for start in range(0, len(train), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(train)))
            seed = _chunk_seed(config.seed, epoch, start)
            texts = [train.source_text(row) for row in rows]
            sources = tokenizer.encode_sampled("source", texts, settings.sampling, seed)
            targets: Any = [train.target(row) for row in rows]
            if settings.sampling_side == "both":
                texts = [train.target_text(row) for row in rows]
                targets = tokenizer.encode_sampled("target", texts, settings.sampling, seed + 1)
            writer.write(sources, targets, train.corpus[rows.start : rows.stop])
            bar.update(len(rows))
    file.flush()


def _chunk_seed(seed: int, epoch: int, start: int) -> int:
    digest = hashlib.blake2b(f"{seed} {epoch} {start}".encode(), digest_size=7)
    return int.from_bytes(digest.digest(), "big")


def _key(config: Config, texts: dict[str, str], tokenizer: Tokenizer | None) -> str:
    pieces = asdict(config.tokenizer)
    sampled = pieces.pop("sampling") > 0
    pieces.pop("sampling_side")
    parts = {
        "format": _FORMAT,
        "texts": texts,
        "languages": [config.data.source_language, config.data.target_language],
        "cleaning": asdict(config.data.cleaning),
        "tokenizer": tokenizer.fingerprint if tokenizer else pieces,
        "text_kept": sampled,
    }
    return _hash(parts)


def _fingerprint(corpora: list[CorpusConfig], data: DataConfig) -> str:
    """Hash of what the corpora hold: the bytes of their files, and how they are read."""
    parts: list[Any] = []
    for corpus in corpora:
        settings = asdict(corpus)
        settings.pop("weight")
        if corpus.grammar is not None:
            settings["grammar_data"] = _grammar_fingerprint()
        else:
            paths = input_files(corpus, data)
            settings.update(
                source=len(corpus.source), target=len(corpus.target),
                files=[file_form(name) for name in corpus.files], content=[checksum(path) for path in paths],
            )  # fmt: skip
        parts.append(settings)
    return _hash(parts)


def _grammar_fingerprint() -> str:
    """Hash of the grammar's code and data, wherever a change could change its text."""
    package = Path(__file__).parent
    files = sorted(package.glob("grammar*.py"))
    for data in (package.parent / "data" / "grammar", package.parent.parent / "data" / "grammar"):
        files += sorted(path for path in data.rglob("*") if path.is_file())
    return _hash([[path.name, checksum(path)] for path in files])


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@contextmanager
def _only_one(cache: Path, key: str) -> Iterator[None]:
    """Lets one process at a time prepare a key; the lock goes with the process, however that ends."""
    with (cache / f".{key}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message(f"{cache}: waiting for another process that prepares the same data")
            fcntl.flock(file, fcntl.LOCK_EX)
        for abandoned in cache.glob(f".{key}.*.tmp"):  # of a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        yield


def _build(folder: Path, config: Config, tokenizer: Tokenizer | None) -> None:
    """Fills a new prepared folder."""
    data = config.data
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source_file, target_file = Path(scratch, "source"), Path(scratch, "target")
        report, kept = _clean_into(source_file, target_file, data)
        if not report["kept"]:
            raise UserError(f"data.train: no pairs are left of {report['read']} read; see data.cleaning")
        if tokenizer is None:
            with progress_bar(2 * report["kept"], "learning pieces", "line") as bar:
                tokenizer = train_tokenizer(
                    config.tokenizer, _counted(read_lines([source_file]), bar), _counted(read_lines([target_file]), bar)
                )
        tokenizer.save(folder)
        pairs = zip(read_lines([source_file]), read_lines([target_file]))
        corpora = np.repeat(np.arange(len(kept)), kept)
        _encode_into(
            folder / "train", pairs, tokenizer, corpora, total=report["kept"],
            with_text=config.tokenizer.sampling > 0, description="tokenising",
        )  # fmt: skip
    valid = list(chain.from_iterable(read_pairs(corpus, data) for corpus in data.valid))
    if not valid:
        raise UserError("data.valid: there are no pairs; validation needs some")
    _encode_into(
        folder / "valid", iter(valid), tokenizer, np.zeros(len(valid), dtype=np.int64), total=len(valid),
        with_text=True, description="validation",
    )  # fmt: skip
    write_text(folder / "cleaning.json", json.dumps(report, ensure_ascii=False, indent=2) + "\n")
    write_manifest(folder)


def _clean_into(source_file: Path, target_file: Path, data: DataConfig) -> tuple[dict[str, Any], list[int]]:
    """Writes the cleaned training text, one line each side; the report, and pairs kept of each corpus."""
    held_out: set[bytes] = set()
    if data.cleaning.overlap:
        for corpus in (*data.valid, *data.test):
            held_out.update(pair_hash(source, target) for source, target in read_pairs(corpus, data))
    report = CleaningReport(data.cleaning.examples)
    seen: set[bytes] = set()
    corpora: list[dict[str, Any]] = []
    with (
        source_file.open("w", encoding="utf-8", newline="\n", errors="replace") as sources,
        target_file.open("w", encoding="utf-8", newline="\n", errors="replace") as targets,
        progress_bar(None, "cleaning", "pair") as bar,
    ):
        for corpus in data.train:
            read, kept = report.read, report.kept
            for source, target in clean(read_pairs(corpus, data), data.cleaning, held_out, report, seen):
                sources.write(source + "\n")
                targets.write(target + "\n")
                if report.kept % 1000 == 0:
                    bar.update(1000)
            corpora.append({"name": _name(corpus), "read": report.read - read, "kept": report.kept - kept})
    return {**report.to_json(), "corpora": corpora}, [corpus["kept"] for corpus in corpora]


def _counted(lines: Iterator[str], bar: Any) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        yield line
        if number % 1000 == 0:
            bar.update(1000)


def _name(corpus: CorpusConfig) -> str:
    if corpus.grammar is not None:
        return "grammar"
    return corpus.hub or " ".join([*corpus.source, *corpus.target, *corpus.files])


def _encode_into(
    folder: Path,
    pairs: Iterator[tuple[str, str]],
    tokenizer: Tokenizer,
    corpora: np.ndarray,
    *,
    total: int,
    with_text: bool,
    description: str,
) -> None:
    """Writes a token store. `corpora` (pairs,) gives the corpus number of each pair."""
    done = 0
    with create_store(folder, with_text=with_text) as writer, progress_bar(total, description, "pair") as bar:
        while chunk := list(islice(pairs, _CHUNK)):
            sources, targets = [source for source, _ in chunk], [target for _, target in chunk]
            writer.write(
                tokenizer.encode_source(sources), tokenizer.encode_target(targets),
                corpora[done : done + len(chunk)], sources, targets,
            )  # fmt: skip
            done += len(chunk)
            bar.update(len(chunk))


def _open(folder: Path, config: Config, texts: dict[str, str]) -> Prepared:
    check_manifest(folder)
    tokenizer = load_tokenizer(folder)
    train, valid = open_store(folder / "train", folder), open_store(folder / "valid", folder)
    weights = [corpus.weight for corpus in config.data.train]
    if set(weights) != {1.0}:
        train.weights = np.array(weights)[train.corpus]
    cleaning = json.loads((folder / "cleaning.json").read_text(encoding="utf-8"))
    _count_too_many_tokens(cleaning, train, tokenizer, config)
    fingerprints = {**texts, "tokenizer": tokenizer.fingerprint, "prepared": folder.name}
    return Prepared(tokenizer, train, valid, cleaning, fingerprints, folder)


def _count_too_many_tokens(
    cleaning: dict[str, Any], train: TokenStore, tokenizer: Tokenizer, config: Config
) -> None:
    """Adds the pairs that training leaves out because a side has more than `train.max_length` tokens."""
    longest = np.maximum(train.source_lengths, train.target_lengths)
    dropped = np.flatnonzero(longest > config.train.max_length)
    if len(dropped) == len(train):
        raise UserError(
            f"train.max_length is {config.train.max_length}, and all {len(train)} training pairs have more tokens"
        )
    examples = [
        [
            tokenizer.decode_source(train.source(index).tolist())[:300],
            tokenizer.decode_target(train.target(index).tolist())[:300],
        ]
        for index in dropped[: config.data.cleaning.examples].tolist()
    ]
    cleaning["rules"]["too_many_tokens"] = {"dropped": len(dropped), "examples": examples}
    cleaning["kept"] -= len(dropped)
