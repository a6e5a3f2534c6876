"""From the data section of a config to a tokeniser and token stores, prepared once and cached by content.

The key of a prepared folder is a hash of the bytes of every input file and of the settings that decide the
result. Paths, weights and `train.max_length` are not in it: a corpus may move, and the others apply later.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

import numpy as np

from mt.config import Config, CorpusConfig, DataConfig
from mt.corpus import store
from mt.corpus.cleaning import Cleaner, examine
from mt.corpus.text import file_form, input_files, read_pairs
from mt.corpus.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from mt.errors import UserError
from mt.files.atomic import move_folder
from mt.files.json_file import file_digest, read_json, write_json
from mt.grammar.lexicon import data_directory
from mt.processes import WorkerKilled, available_cores, ordered_map
from mt.progress import log_line, progress_bar

_FORMAT = 2  # raise it when the same input no longer gives the same folder
_ANEW = "remove {}, and it is made anew"
_SHARDS = "shards"  # folder of the cleaned text, then of its encoded pairs too
_ALONE = 10  # chunks cleaned before other processes are started: a small corpus is done by then


@dataclass
class Prepared:
    """What training needs of the data."""

    tokenizer: Tokenizer
    """learnt from the cleaned training text, or the one that was given"""
    train: store.TokenStore
    valid: store.TokenStore
    """always with its texts"""
    cleaning: dict[str, Any]
    """the cleaning report, as `cleaning.json` holds it"""
    fingerprints: dict[str, str]
    """hashes of the training, validation and test text and of the tokeniser"""
    folder: Path
    """in the cache"""
    segmented: dict[Any, Any] = field(default_factory=dict)
    """segmentations of epochs that are there or under way (`mt.corpus.epochs`)"""


def prepare(config: Config, tokenizer: Tokenizer | None = None) -> Prepared:
    """Cleans and tokenises the data of a run, or finds it in the cache.

    `tokenizer`: encode with this one (fine-tuning) and do not learn one. Raises UserError where something is wrong with
    the input or the cache folder.
    """
    cache = Path(config.data.cache) if config.data.cache else Path(config.run_dir).parent / "cache"
    splits = {"train": config.data.train, "valid": config.data.valid, "test": config.data.test}
    texts = {name: _fingerprint(corpora, config.data) for name, corpora in splits.items()}
    pieces = {name: value for name, value in asdict(config.tokenizer).items() if not name.startswith("sampling")}
    key = {
        "format": _FORMAT,
        "texts": texts,
        "languages": [config.data.source_language, config.data.target_language],
        "cleaning": asdict(config.data.cleaning),
        "tokenizer": tokenizer.fingerprint if tokenizer else pieces,
        "text_kept": config.tokenizer.sampling > 0,
    }
    folder = cache / _hash(key)
    if not folder.exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _only_one(cache, folder.name):
                if not folder.exists():  # another process may have made it while this one waited
                    _build_in_place(folder, config, tokenizer)
        except OSError as error:
            raise UserError(
                f"{error.filename or cache}: {error.strerror or error}; prepared data goes into {cache}: make room, "
                "or give another folder with --data.cache FOLDER"
            ) from None
    store.check_manifest(folder)
    tokenizer = load_tokenizer(folder)
    train, valid = store.open_store(folder / "train", folder), store.open_store(folder / "valid", folder)
    weights = [corpus.weight for corpus in config.data.train]
    if set(weights) != {1.0}:
        train.weights = np.array(weights)[train.corpus]
    cleaning = read_json(folder / "cleaning.json", dict[str, Any], _ANEW.format(folder))
    _count_overlong(cleaning, train, tokenizer, config)
    fingerprints = {**texts, "tokenizer": tokenizer.fingerprint, "prepared": folder.name}
    return Prepared(tokenizer, train, valid, cleaning, fingerprints, folder)


def _fingerprint(corpora: list[CorpusConfig], data: DataConfig) -> str:
    """Hash of what the corpora hold: the bytes of their files, and how they are read."""
    parts: list[Any] = []
    for corpus in corpora:
        settings = asdict(corpus)
        settings.pop("weight")
        if not corpus.delimiter:  # as of versions without it: what they have prepared stays valid
            settings.pop("delimiter")
        if corpus.grammar is not None:
            settings["grammar"]["languages"] = [data.source_language, data.target_language]
            # its code and data, wherever a change could change its text
            code, grammar = Path(__file__).parents[1] / "grammar", data_directory() / "grammar"
            files = [*sorted(code.glob("*.py")), *sorted(filter(Path.is_file, grammar.rglob("*")))]
            settings["grammar_data"] = _hash([[path.name, file_digest(path)] for path in files])
        else:
            with ThreadPoolExecutor(available_cores()) as threads:
                settings["content"] = list(threads.map(file_digest, input_files(corpus, data)))
            forms = [file_form(name) for name in corpus.files]
            settings |= {"source": len(corpus.source), "target": len(corpus.target), "files": forms}
        parts.append(settings)
    return _hash(parts)


def _hash(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=12).hexdigest()


@contextmanager
def _only_one(cache: Path, key: str) -> Iterator[None]:
    """Lets one process at a time prepare a key; the lock goes with the process, however that ends."""
    with (cache / f".{key}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log_line(f"{cache}: waiting for another process that prepares the same data")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build_in_place(folder: Path, config: Config, tokenizer: Tokenizer | None) -> None:
    """Builds beside the folder and renames at the end. What is done stays when the process is stopped or killed."""
    building = folder.with_name(f".{folder.name}.building")
    if building.exists():
        log_line(f"{building}: going on with a preparation that was stopped")
    building.mkdir(exist_ok=True)
    for half_written in building.rglob(".*.tmp"):
        half_written.unlink()
    try:
        if not (building / store.MANIFEST).exists():  # it is written last: with it all is there
            _build(building, config, tokenizer)
    except UserError as error:
        if not isinstance(error, WorkerKilled):  # but of the input, which it would meet again
            shutil.rmtree(building)
        raise
    except KeyboardInterrupt:
        log_line(f"stopped; what is done is kept in {building}, and the same command goes on from there")
        raise
    shutil.rmtree(building / _SHARDS, ignore_errors=True)
    move_folder(building, folder)


def _build(folder: Path, config: Config, tokenizer: Tokenizer | None) -> None:
    """Fills a prepared folder, in stages; one that a stopped preparation has finished is not done again."""
    processes = config.threads or available_cores()
    shards, report_file = folder / _SHARDS, folder / "cleaning.json"
    seconds: dict[str, float] = {}
    if not report_file.exists():
        with _timed(seconds, "cleaning"):
            shutil.rmtree(shards, ignore_errors=True)  # of a cleaning that was stopped
            write_json(report_file, _clean_into(shards, config, processes))
    store.check_manifest(shards, folder)  # a stopped preparation may have left them long ago
    report = read_json(report_file, dict[str, Any], _ANEW.format(folder))
    if not report["kept"]:
        raise UserError(_nothing_left(report))
    if tokenizer is None and not any((folder / name).exists() for name in ("tokenizer.model", "target.model")):
        with _timed(seconds, "learning pieces"):
            tokenizer = _learn_pieces(shards, report["kept"], config)
    if tokenizer is not None:
        tokenizer.save(folder)
    with _timed(seconds, "tokenising"):
        _encode_valid(folder / "valid", config.data, load_tokenizer(folder))
        kept = [corpus["kept"] for corpus in report["corpora"]]
        store.encode_shards(shards, folder, kept, with_text=config.tokenizer.sampling > 0, processes=processes)
    store.write_manifest(folder)
    pairs = report["read"]
    stages = (f"{stage} {spent:.1f} s ({pairs / max(spent, 1e-9):,.0f} pairs/s)" for stage, spent in seconds.items())
    log_line(f"{pairs:,} pairs: " + ", ".join(stages))


def _nothing_left(report: dict[str, Any]) -> str:
    """Names the rule that has dropped most."""
    rule = max(report["rules"], key=lambda rule: report["rules"][rule]["dropped"])
    names = {"missing_language": "data.train.columns", "too_long": "data.cleaning.max_words or max_characters"}
    name = names.get(rule, f"data.cleaning.{rule}").replace("ratio", "max_ratio")
    dropped, examples = report["rules"][rule]["dropped"], report["rules"][rule]["examples"][:1]
    most = f"the rule {rule} dropped most, {dropped}; change {name}, or the text: {examples}"
    return f"data.train: no pairs are left of {report['read']} read; {most if dropped else 'its files are empty'}"


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


def _clean_into(shards: Path, config: Config, processes: int) -> dict[str, Any]:
    """Writes the cleaned training text; the report."""
    data = config.data
    examine_chunk = partial(examine, config=data.cleaning, fold_case=config.tokenizer.normalization.endswith("_cf"))
    held_out = [np.empty(0, dtype=np.uint64)]
    for corpus in (*data.valid, *data.test) if data.cleaning.overlap else ():
        held_out += [examine_chunk(chunk)[1] for chunk in _chunks(read_pairs(corpus, data))]
    cleaner = Cleaner(data.cleaning, np.concatenate(held_out))
    corpora: list[dict[str, Any]] = []

    def pieces() -> Iterator[tuple[list[str], list[str]]]:
        for corpus in data.train:
            before, lacking = cleaner.counts, dict[str, Any](dropped=0, examples=[])
            chunks, examined = tee(_chunks(read_pairs(corpus, data, lacking)))
            rules = ordered_map(examine_chunk, examined, processes=processes, alone=_ALONE)
            for found, chunk in zip(rules, chunks):
                yield cleaner.keep(chunk, found)
                bar.update(len(chunk[0]))
            files = " ".join([*corpus.source, *corpus.target, *corpus.files])
            name = "grammar" if corpus.grammar else corpus.hub or files
            cleaner.leave_out(lacking)
            counts = cleaner.counts - before  # no rule that has dropped nothing
            corpora.append({"name": name, "read": counts.pop("read", 0), "kept": counts.pop("kept", 0)})
            corpora[-1]["dropped"] = dict(counts)

    with progress_bar(None, "cleaning", "pair") as bar:
        store.write_shards(shards, pieces())
    return {"read": cleaner.read, "kept": cleaner.kept, "rules": cleaner.rules, "corpora": corpora}


def _chunks(pairs: Iterator[tuple[str, str]]) -> Iterator[tuple[list[str], list[str]]]:
    while chunk := list(islice(pairs, store.CHUNK)):
        yield [source for source, _ in chunk], [target for _, target in chunk]


def _learn_pieces(shards: Path, pairs: int, config: Config) -> Tokenizer:
    """Learns from at most so many lines, evenly spread; SentencePiece would draw others in each process."""
    most = config.tokenizer.training_sentences // (2 if config.tokenizer.joint else 1)

    def lines(side: str) -> Iterator[str]:
        for number, line in enumerate(store.shard_lines(shards, side)):
            bar.update()
            if number * most // pairs != (number + 1) * most // pairs:
                yield line

    with progress_bar(2 * pairs, "learning pieces", "line") as bar:
        return train_tokenizer(config.tokenizer, lines("source"), lines("target"))


def _encode_valid(folder: Path, data: DataConfig, tokenizer: Tokenizer) -> None:
    pairs = chain.from_iterable(read_pairs(corpus, data) for corpus in data.valid)
    with store.create_store(folder, with_text=True) as writer:
        for sources, targets in _chunks(pairs):
            ids = tokenizer.encode_source(sources), tokenizer.encode_target(targets)
            writer.write(*ids, np.zeros(len(sources), dtype=np.int64), sources, targets)
        if not writer.rows:
            raise UserError("data.valid: there are no pairs; validation needs some")


def _count_overlong(cleaning: dict[str, Any], train: store.TokenStore, tokenizer: Tokenizer, config: Config) -> None:
    """Adds the pairs that training leaves out because a side has more than `train.max_length` tokens."""
    limit = config.train.max_length
    dropped = np.flatnonzero(np.maximum(train.source_lengths, train.target_lengths) > limit)
    if len(dropped) == len(train):
        raise UserError(f"train.max_length is {limit}, and all {len(train)} training pairs have more tokens")
    examples = [
        [tokenizer.decode_source(train.source(index))[:300], tokenizer.decode_target(train.target(index))[:300]]
        for index in dropped[: config.data.cleaning.examples].tolist()
    ]
    cleaning["rules"]["too_many_tokens"] = {"dropped": len(dropped), "examples": examples}
    cleaning["kept"] -= len(dropped)
    of_each = np.bincount(train.corpus[dropped], minlength=len(cleaning["corpora"])).tolist()
    for corpus, count in zip(cleaning["corpora"], of_each):
        corpus["kept"] -= count
        if count:
            corpus.setdefault("dropped", {})["too_many_tokens"] = count
