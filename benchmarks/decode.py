"""Our engines against CTranslate2's own translator called directly: lines of text in, lines of text out.

Both sides have the same weights, tokeniser, beam and lines. Starting up is apart: what is timed begins with loaded
models.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.measure import Case, Work, measure
from benchmarks.random_text import random_lines, random_tokenizer
from mt.config import Config, CorpusConfig, DataConfig, ModelConfig, TrainConfig
from mt.decoding.shortlist import FILE as SHORTLIST
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.files.lines import check_readable, read_lines
from mt.interop.ctranslate2_engine import CTranslate2Engine, cached_export
from mt.interop.ctranslate2_export import import_ctranslate2
from mt.model.directory import LoadedModel, build_model, load_model
from mt.model.linear import has_bfloat16
from mt.progress import log_line

__all__ = ["cases", "measure"]

LINES, BEAM = 5000, 5
_COPIES = 5
_FILES = ("multi30k/test.de.gz", "multi30k/valid.de.gz", "multi30k/train.de.gz")
BASELINE = "SentencePiece, ctranslate2.Translator.translate_batch at the fastest of its settings tried, SentencePiece"
# Batches by source tokens or by sentences, which CTranslate2 sorts by length itself.
_BATCHES = (
    {"max_batch_size": 1024, "batch_type": "tokens"},
    {"max_batch_size": 256, "batch_type": "tokens"},
    {"max_batch_size": 32},
)
_RANDOM_OUTPUT = 15  # tokens that random weights, which never end a sentence, have to give each line


def cases(model: Path | None = None, corpora: Path | None = None) -> dict[str, Case]:
    """The comparisons by name: each engine on different lines, and our own on lines of which each comes five times.

    Args:
        model: model or run directory; None: random weights, 3 + 3 layers of width 256, and random words. One with a
            shortlist is compared with it as well.
        corpora: folder with multi30k/test.de.gz and so on, which is translated; given if and only if a model is.

    Raises:
        UserError: CTranslate2 or the text is missing, or only one of the two is given.
    """
    if (model is None) != (corpora is None):
        raise UserError("--model and --corpora belong together: give both, or none for random weights and words")
    import_ctranslate2()
    if corpora is not None:
        check_readable([corpora / name for name in _FILES])
    rows = [("torch", "float32", ""), ("ctranslate2", "float32", ""), ("ctranslate2", "int8", "")]
    rows += [("torch", "float32", "repeated"), ("ctranslate2", "float32", "repeated")]
    if has_bfloat16():
        rows.insert(1, ("torch", "bfloat16", ""))
    else:
        log_line("no row for bfloat16: this processor has no instructions for it (avx512_bf16, amx_bf16)")
    if model is not None and (load_model(model).folder / SHORTLIST).is_file():
        rows.insert(1, ("torch", "float32", "shortlist"))
    found = {}
    for engine, compute_type, special in rows:
        name = "_".join(filter(None, (engine, compute_type, special)))
        settings = {
            "baseline": f"{BASELINE}, {_baseline_type(compute_type)}",
            "lines": LINES,
            "beam": BEAM,
            "unit": "sentences/s",
            "different_lines": LINES // _COPIES if special == "repeated" else LINES,
            "model": str(model or "random weights, 3 + 3 layers, width 256"),
        }
        work = partial(prepare, engine=engine, compute_type=compute_type, special=special, model=model, corpora=corpora)
        processes = torch.get_num_threads() if engine == "torch" else 0
        found[name] = Case(name, work, LINES, settings, processes=processes)
    return found


def prepare(
    device: str,
    *,
    engine: str,
    compute_type: str,
    special: str = "",
    model: Path | None = None,
    corpora: Path | None = None,
    lines: int = LINES,
) -> tuple[Work, Work]:
    """Ours and the baseline, each a call that translates all lines with as many cores as torch has threads.

    `special`: "shortlist", or "repeated": a fifth of the lines, five times one after the other.
    """
    threads = torch.get_num_threads()
    limits: dict[str, Any] = {}
    different = lines // _COPIES if special == "repeated" else lines
    if model is None or corpora is None:
        loaded, text = random_model(device), random_lines(different, 2)
        limits = {"min_length": _RANDOM_OUTPUT, "max_output": _RANDOM_OUTPUT}
    else:
        loaded = load_model(model, device)
        text = list(islice(dict.fromkeys(read_lines([corpora / name for name in _FILES])), different))
    if len(text) < different:
        raise UserError(f"{corpora}: holds {len(text)} different German lines; {different} are translated")
    text *= lines // different
    chosen = CTranslate2Engine(loaded, threads, compute_type) if engine == "ctranslate2" else None
    loaded.model.use_bfloat16_products(compute_type == "bfloat16")
    translator = Translator(loaded, chosen, recalibrate=False)
    processes = threads if chosen is None and device == "cpu" else 1

    search: dict[str, Any] = {
        "beam": BEAM,
        "nbest": 1,
        "length_penalty": "average",
        "length_alpha": 1.0,
        "token_scores": False,
    }
    search |= {"shortlist": special == "shortlist", **limits}

    def ours() -> None:
        assert sum(1 for _ in translator.translate(text, processes=processes, **search)) == len(text)

    return ours, _direct(loaded, text, _baseline_type(compute_type), device, threads, bool(limits))


def _baseline_type(compute_type: str) -> str:
    """Ours in bfloat16 is held against its float32, which is what we give up."""
    return "float32" if compute_type == "bfloat16" else compute_type


def _direct(loaded: LoadedModel, text: list[str], compute_type: str, device: str, threads: int, fixed: bool) -> Work:
    """CTranslate2 without us, at the fastest of its settings on a part of the lines."""
    library = import_ctranslate2()
    folder, tokenizer = str(cached_export(loaded)), loaded.tokenizer
    length = {"min_decoding_length": _RANDOM_OUTPUT - 1, "max_decoding_length": _RANDOM_OUTPUT - 1} if fixed else {}

    def way(inter: int, intra: int, batches: dict[str, Any]) -> Callable[[list[str]], None]:
        translator = library.Translator(
            folder, device=device, compute_type=compute_type, inter_threads=inter, intra_threads=intra
        )

        def translate(lines: list[str]) -> None:
            pieces = [tokenizer.source_pieces(ids[:-1]) for ids in tokenizer.encode_source(lines)]
            results = translator.translate_batch(pieces, beam_size=BEAM, length_penalty=1.0, **length, **batches)
            ids = [[target[piece] for piece in result.hypotheses[0]] for result in results]
            assert len([tokenizer.decode_target(each) for each in ids]) == len(lines)

        return translate

    target = {piece: number for number, piece in enumerate(tokenizer.target_pieces(range(tokenizer.target_size)))}
    shapes = {(threads, 1), (1, threads)} if device == "cpu" else {(1, 1)}
    tried = [way(*shape, batches) for shape in sorted(shapes) for batches in _BATCHES]
    best = min(tried, key=lambda translate: _seconds(translate, text[: max(1, len(text) // 10)]))
    return lambda: best(text)


def _seconds(translate: Callable[[list[str]], None], text: list[str]) -> float:
    translate(text[: len(text) // 4 + 1])  # warms up
    begun = time.perf_counter()
    translate(text)
    return time.perf_counter() - begun


def random_model(device: str) -> LoadedModel:
    """Random weights of the size that is called small: 3 + 3 layers, width 256, one matrix of 8,000 pieces."""
    unused = CorpusConfig(files=["unused.tsv"])
    config = Config(
        run_dir="unused",
        train=TrainConfig(max_steps=1),
        data=DataConfig(source_language="de", target_language="en", train=[unused], valid=[unused]),
        model=ModelConfig(width=256, encoder_layers=3, decoder_layers=3),
    )
    tokenizer = random_tokenizer()
    torch.manual_seed(1)
    model = build_model(config, tokenizer).to(device).eval()
    return LoadedModel(model, tokenizer, config, {}, Path(_folder().name))


@cache
def _folder() -> TemporaryDirectory[str]:
    """For the export of random weights, as long as this process lives."""
    return TemporaryDirectory(prefix="mt-bench-")
