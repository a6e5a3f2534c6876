"""CTranslate2 as an engine: the same model, exported on first use, behind the same windows, order and records.

What differs from our own search: it stops when `beam` hypotheses are finished, it gives no token scores (they come
from a forced pass of ours), and its length penalties are none and length ** alpha alone.

Torch is imported for that pass, and to make and check the export: what was checked before translates without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from mt.config import SearchConfig
from mt.decoding.sources import length_groups
from mt.decoding.types import Hypothesis, length_penalty
from mt.errors import UserError
from mt.files.atomic import atomic_folder
from mt.files.json_file import check_listed, list_files, write_json
from mt.interop.ctranslate2_export import (
    EXPRESSIBLE,
    CannotHonour,
    check_exportable,
    export_ctranslate2,
    import_ctranslate2,
    longest_output,
    unique_pieces,
)
from mt.model.directory import LoadedModel
from mt.processes import available_cores
from mt.progress import log_line

_EXPORT_VERSION = 3  # of what `export_ctranslate2` writes: another one makes exports anew
_LISTING = "files.json"  # in the folder of an export: its other files, with their digests
# Options that it honours the way our search does.
_SEARCH = {"beam", "nbest", "length_alpha", "no_repeat_ngram", "batch_tokens", "token_scores"}
_LIMITS = {"min_length", "max_output", "max_length", "max_length_ratio", "max_length_extra"}
_LENGTH_PENALTIES = ("none", "average")
_CPU_BATCH = {"float32": 2048, "int8": 256}  # source tokens at most: the fastest (measured, AVX-512)
_SAMPLE = 16  # sentences of the first search that are also translated by our own model, once for each export
# Greedy outputs may differ where two tokens are as likely; how much worse than ours the model itself may find its
# output, in nats a token, on average over the sample. Eight bits move the probabilities themselves.
_TOLERANCE = {"float32": 1e-3, "int8": 0.1}


class CTranslate2Engine:
    """Searches with CTranslate2, one single-threaded worker a core."""

    def __init__(
        self, loaded: LoadedModel, threads: int | None = None, compute_type: str = "float32", device: str = ""
    ) -> None:
        """Exports the model if need be and loads it; `threads`: processor cores, None: all; `device`: "cpu" or "cuda",
        by default where `loaded.model` is. Raises CannotHonour when the library is missing or lacks that type, or the
        model has a form that it cannot express."""
        if compute_type not in _CPU_BATCH:
            raise CannotHonour(f"compute_type is {compute_type}: CTranslate2 has {' and '.join(_CPU_BATCH)} here")
        library = import_ctranslate2()
        check_exportable(loaded.config.model, EXPRESSIBLE, "CTranslate2", "use --engine torch")
        self.loaded, self.compute_type, self.folder = loaded, compute_type, cached_export(loaded)
        device = device or loaded.model.output_weight.device.type
        self._on_cpu = device == "cpu"
        self._threads = threads or available_cores()
        workers = self._threads if self._on_cpu else 1
        try:
            self._translator = library.Translator(
                str(self.folder), device=device, compute_type=compute_type, inter_threads=workers, intra_threads=1
            )
        except (RuntimeError, ValueError) as error:
            raise CannotHonour(f"{self.folder}: CTranslate2 cannot load it ({error}); use --engine torch") from None
        tokenizer = loaded.tokenizer
        self._source_pieces, target_pieces = map(unique_pieces, tokenizer.vocabularies)
        self._target_ids = {piece: number for number, piece in enumerate(target_pieces)}
        self._forbidden = [[target_pieces[number]] for number in {tokenizer.pad_id, tokenizer.begin_id}]
        self._check_file = self.folder / f"checked-{library.__version__}-{device}-{compute_type}.json"
        self.checked = self._check_file.exists()
        """whether the export has been found to agree with our model"""

    def search(
        self, source_ids: list[list[int]], options: SearchConfig, prefixes: list[list[int]] | None = None
    ) -> list[list[Hypothesis]]:
        """See Engine. The first search also checks the export on some of its sentences.

        A single hypothesis without `options.token_scores` has no log_probs, and the score that CTranslate2 gave it.
        Raises CannotHonour for prefixes or another option that CTranslate2 cannot honour, or an export that does not
        agree with our model."""
        refuse_unknown_options(options)
        if prefixes is not None:
            raise CannotHonour("prefix: CTranslate2 cannot honour it; use --engine torch")
        if source_ids and not self.checked:
            self.check(source_ids)
        return self._scored(source_ids, self._outputs(source_ids, options), options)

    def _outputs(self, sources: Sequence[Sequence[int]], options: SearchConfig) -> list[list[tuple[list[int], float]]]:
        """Ids, end of sentence last, and CTranslate2's score of each hypothesis of each sentence."""
        limits = [options.longest_output(len(ids)) for ids in sources]
        alpha = 0.0 if options.length_penalty == "none" else options.length_alpha
        budget = options.batch_tokens // options.beam
        if self._on_cpu:
            budget = min(budget, _CPU_BATCH[self.compute_type])
        waiting: dict[int, Any] = {}  # by number of the sentence
        for group in _groups(sources, limits, budget):
            results = self._translator.translate_batch(
                # Without their end of sentence, which CTranslate2 adds: see `add_source_eos` in its config.json.
                [[self._source_pieces[token] for token in sources[index][:-1]] for index in group],
                asynchronous=True,
                beam_size=options.beam,
                num_hypotheses=options.nbest,
                length_penalty=alpha,
                max_input_length=0,  # no limit: by default it cuts sources after 1,024 tokens
                max_decoding_length=limits[group[0]],
                return_scores=True,
                min_decoding_length=min(options.min_length, limits[group[0]]) - 1,  # ours counts the end of sentence
                no_repeat_ngram_size=options.no_repeat_ngram,
                return_end_token=True,
                suppress_sequences=self._forbidden,
            )
            waiting |= zip(group, results)
        found = []
        for index, limit in enumerate(limits):
            result = waiting[index].result()
            ended = [self._ended(pieces, limit) for pieces in result.hypotheses]
            # Of outputs that became equal when they were cut, the best.
            different = dict(zip(reversed(ended), reversed(result.scores)))
            found.append([(list(ids), different[ids]) for ids in dict.fromkeys(ended)])
        return found

    def _ended(self, pieces: list[str], limit: int) -> tuple[int, ...]:
        """The ids; an output that did not end in time is cut and ends at its longest allowed length."""
        ids = tuple(self._target_ids[piece] for piece in pieces)
        end_id = self.loaded.tokenizer.end_id
        return ids if ids[-1:] == (end_id,) and len(ids) <= limit else (*ids[: limit - 1], end_id)

    def _scored(
        self, sources: Sequence[Sequence[int]], outputs: list[list[tuple[list[int], float]]], options: SearchConfig
    ) -> list[list[Hypothesis]]:
        """Hypotheses; where scores are wanted they are those of a forced pass of our model, and order the list."""
        if options.token_scores or options.nbest > 1:
            import torch

            from mt.decoding.scoring import forced_hypotheses

            torch.set_num_threads(self._threads)  # CTranslate2 has changed it where torch was there before
            return forced_hypotheses(self.loaded, sources, [[ids for ids, _ in each] for each in outputs], options)
        name, alpha, none = options.length_penalty, options.length_alpha, np.zeros(0, dtype=np.float32)
        return [
            [Hypothesis(ids, none, score * length_penalty(name, len(ids), alpha), score) for ids, score in each]
            for each in outputs
        ]

    def check(self, sources: list[list[int]]) -> None:
        """Translates the first of these sentences greedily here and with our own model; remembers that the outputs
        agreed. Raises CannotHonour where they do not, or CTranslate2 fails."""
        from mt.decoding.torch_engine import TorchEngine

        if not (sources := sources[:_SAMPLE]):
            raise CannotHonour("CTranslate2's export is not checked yet and there is no line to do it with; give one")
        limits = {name: getattr(self.loaded.config.decode, name) for name in ("max_length_ratio", "max_length_extra")}
        options = SearchConfig(beam=1, batch_tokens=4096, **limits)
        ours = [hypotheses[0] for hypotheses in TorchEngine(self.loaded).search(sources, options)]
        try:
            outputs = self._outputs(sources, options)
        except RuntimeError as error:  # a library of CUDA is missing, say
            raise CannotHonour(f"{self.folder}: CTranslate2 cannot run it ({error}); use --engine torch") from None
        theirs = [each[0] for each in self._scored(sources, outputs, options)]
        equal = sum(one.tokens == other.tokens for one, other in zip(ours, theirs))
        worse = float(np.mean([one.score - other.score for one, other in zip(ours, theirs)]))
        if not worse <= _TOLERANCE[self.compute_type]:  # true for nan too
            raise CannotHonour(
                f"{self.folder}: CTranslate2's {self.compute_type} outputs do not agree with ours on a sample ({equal} "
                f"of {len(sources)} are equal, {worse:.2g} nats a token worse on average); use --engine torch"
            )
        self.checked = True
        with suppress(OSError):  # someone else's cache: checked again next time
            write_json(self._check_file, {"sentences": len(sources), "equal": equal, "worse": worse})


def refuse_unknown_options(options: SearchConfig) -> None:
    """Raises CannotHonour for an option that CTranslate2 cannot honour the way our search does."""
    for item in fields(options):
        value = getattr(options, item.name)
        known = _LENGTH_PENALTIES if item.name == "length_penalty" else (item.default,)
        if item.name not in _SEARCH | _LIMITS and value not in known:
            raise CannotHonour(f"{item.name} is {value}: CTranslate2 cannot honour it; use --engine torch")


def choose_device(name: str) -> str:
    """ "auto" is a GPU where there is one, as for our own engine, but torch is not asked. Raises CannotHonour where
    CTranslate2 does not see the GPU that there is or shall be."""
    seen = import_ctranslate2().get_cuda_device_count() > 0
    there = seen or any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()
    chosen = ("cuda" if there else "cpu") if name == "auto" else name
    if chosen != "cpu" and not (chosen == "cuda" and seen):
        raise CannotHonour(f"device {chosen}: CTranslate2 sees none; use --device cpu or --engine torch")
    return chosen


def _groups(sources: Sequence[Sequence[int]], limits: Sequence[int], most: int) -> Iterator[list[int]]:
    """Groups of similar length and one limit, the longest first: a batch has one limit, and where an output runs to
    its own limit the search depends on it."""
    for limit in sorted(set(limits), reverse=True):
        own = [index for index, each in enumerate(limits) if each == limit]
        for group in length_groups([len(sources[index]) for index in own], most):
            yield [own[place] for place in group]


def cached_export(loaded: LoadedModel) -> Path:
    """The folder of the exported model: made on first use, in the model directory or, where that cannot be written,
    in the user's folder of caches. One whose files are not as they were written is made anew."""
    # A hash of all that an export depends on.
    model, lengths = loaded.config.model, [loaded.config.decode.max_length, longest_output(loaded)]
    parts = [_EXPORT_VERSION, loaded.weights_digest, loaded.tokenizer.fingerprint, model, *lengths]
    name = hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    places = [loaded.folder / "ctranslate2" / name, caches / "mt" / "ctranslate2" / name]
    if whole := next(filter(_is_whole, places), None):
        return whole
    failure: OSError | None = None
    for place in places if loaded.folder.is_dir() else places[1:]:
        try:
            _export(loaded, place)
            return place
        except OSError as error:
            failure = error
    raise CannotHonour(
        f"{places[-1]}: cannot be written ({failure}); set XDG_CACHE_HOME to a folder that can"
    ) from None


def _is_whole(place: Path) -> bool:
    try:
        return check_listed(place / _LISTING, "it is made anew")
    except UserError:
        return False


def _export(loaded: LoadedModel, place: Path) -> None:
    """Makes the export, unless another process does: that one is waited for."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with (place.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(place):
            return
        for left in place.parent.glob(f".{place.name}.*"):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        damaged = place.exists()
        with atomic_folder(place) as temporary:
            export_ctranslate2(loaded, temporary)
            write_json(temporary / _LISTING, {"files": list_files(temporary / _LISTING)})
        if damaged:
            log_line(f"{place}: this export was damaged; it has been made anew")
