"""Training updates against a plain PyTorch loop on the same pairs: speed, memory, and what the time goes to.

Each side is a process of its own (ours with the further ones that it starts) that lives through the whole
measurement; the sides work in turns, and wait for each other asleep. Ours is the training loop as `train.py` runs it,
the other one is `benchmarks.plain`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from benchmarks.measure import in_turns, result
from benchmarks.plain import BASELINE, TOKENS, train_plainly
from benchmarks.random_text import VOCABULARY, random_tokenizer
from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.store import create_store, open_store
from mt.corpus.tokenizer import load_tokenizer
from mt.model.linear import has_bfloat16
from mt.processes import keep_freed_memory, side_processes
from mt.progress import log_line
from mt.training.data import Update
from mt.training.distributed import Group, own_processes
from mt.training.resources import peak_bytes, reset_peak
from mt.training.run import Training
from mt.training.setup import setup, worker_processes

FIRST = 4  # id of the tokeniser, the first that stands for text
WARM_UP = 2
TCMALLOC = ("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4", "/usr/lib/aarch64-linux-gnu/libtcmalloc_minimal.so.4")
# English sentences of Multi30k's training text with 5, 6, ... joint pieces, end of sentence included.
_SENTENCES_OF_LENGTH = (
    "5 22 130 564 1232 1772 2375 2880 2846 2741 2563 2293 1868 1614 1276 1083 833 695 516 400 308 228 199 137 98 72 64 "
    "35 33 16 24 17 9 11 12 5 7 5 2 4 1 3 1 0 1"
)
# German ones differ by so many pieces (standard deviation).
_LENGTH_DEVIATION = 2.7


@dataclass(frozen=True)
class Case:
    """One comparison."""

    name: str
    layers: int
    width: int
    updates: int
    """of a round"""
    preload: str = ""
    """a library that both sides load first: another allocator"""
    corpora: Path | None = None
    """holds multi30k/train.de.gz and so on; None: random ids of the same lengths"""
    profile: Path | None = None
    """gets a trace of three of our updates (Chrome's format)"""
    bfloat16: bool = False
    """ours in bfloat16 against ours in float32; else ours in float32 against the plain loop"""


def cases(corpora: Path | None = None, profile: Path | None = None) -> dict[str, Case]:
    """The comparisons by name: two sizes with the C library's allocator, with tcmalloc where that is installed, and in
    bfloat16 where the processor has it."""
    sizes = [
        Case("small", 3, 256, updates=6, corpora=corpora, profile=profile),
        Case("large", 6, 512, updates=2, corpora=corpora, profile=profile),
    ]
    library = next((path for path in TCMALLOC if Path(path).exists()), "")
    with_tcmalloc = [replace(size, name=f"{size.name}_tcmalloc", preload=library) for size in sizes if library]
    in_bfloat16 = [replace(size, name=f"{size.name}_bfloat16", bfloat16=True) for size in sizes]
    if not has_bfloat16():
        log_line("no rows for bfloat16: this processor has no instructions for it (avx512_bf16, amx_bf16)")
        in_bfloat16 = []
    return {case.name: case for case in (*sizes, *with_tcmalloc, *in_bfloat16)}


def measure(case: Case, *, device: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Compares the two.

    Args:
        case: what to compare.
        device: "cpu" or "cuda".
        threads: processor threads of each side, over all its processes.
        rounds: how often each side is timed, each time over a few updates; see `benchmarks.measure.in_turns`.
        seconds: how long that may take.

    Returns:
        See `benchmarks.measure.result`; units are target tokens, padding not counted. settings also has what our time
        goes to: padding and data_wait (shares), utilisation (share of the rate of a large matrix product).
    """
    with TemporaryDirectory() as folder:
        config = _config(case, device, threads, run_dir=str(Path(folder) / "run"))
        size = _write_data(Path(folder), config, case.corpora is not None)
        with _preloaded(case.preload), _both_sides(config, Path(folder), case) as sides:

            def updates(side: int, count: int = case.updates) -> dict[str, Any]:
                sides[side].send(count)
                return cast(dict[str, Any], sides[side].recv())

            for side in (0, 1):
                updates(side, WARM_UP)
            turns = in_turns(updates, rounds, seconds)
            memory = [updates(side, 0) for side in (0, 1)]
    ours, matrix_rate = turns[-1][0], _matrix_rate(device, threads)
    rates = [(ours["tokens"] / ours["seconds"], plain["tokens"] / plain["seconds"]) for ours, plain in turns]
    settings = {
        "baseline": "the same in float32" if case.bfloat16 else BASELINE,
        "precision": "bfloat16" if case.bfloat16 or device == "cuda" else "float32",
        "layers": case.layers,
        "width": case.width,
        "vocabulary": size,
        "batch_tokens": TOKENS,
        "text": "Multi30k" if case.corpora else "random ids",
        "device": device,
        "threads": threads,
        "processes": ours["processes"],
        "rounds": len(turns),
        "updates_a_round": case.updates,
        "resident_mb": round(memory[0]["resident"] / 1e6),
        "baseline_resident_mb": round(memory[1]["resident"] / 1e6),
        "padding": round(ours["padding"], 4),
        "data_wait": round(ours["data_wait"], 4),
        "utilisation": round(median(rate for rate, _ in rates) * _operations(config, size) / matrix_rate, 3),
        "matrix_gflops": round(matrix_rate / 1e9, 1),
        "allocator": "tcmalloc, both sides" if case.preload else "the C library's, both sides",
    }
    return result(case.name, rates, [side["growth"] for side in memory], settings)


def _config(case: Case, device: str, threads: int, run_dir: str = "unused") -> Config:
    text = [CorpusConfig(source=["multi30k/train.de.gz"], target=["multi30k/train.en.gz"])]
    data = DataConfig(source_language="de", target_language="en", train=text, valid=text, root=str(case.corpora or "."))
    precision: Any = "bfloat16" if case.bfloat16 or device == "cuda" else "float32"
    layers: dict[str, Any] = {"encoder_layers": case.layers, "decoder_layers": case.layers}
    return Config(
        run_dir=run_dir,
        data=data,
        tokenizer=TokenizerConfig(algorithm="bpe", vocabulary_size=VOCABULARY),
        model=ModelConfig(width=case.width, **layers, norm="post", attention_dropout=0.1),
        train=TrainConfig(max_steps=10**9, batch_tokens=TOKENS, warmup_steps=400, precision=precision),
        decode=DecodeConfig(beam=1),
        device="cuda" if device == "cuda" else "cpu",
        threads=threads,
    )


def _write_data(folder: Path, config: Config, real: bool) -> int:
    """Writes tokeniser and pairs for both sides; ours also wants a store to validate on. The vocabulary's size."""
    with create_store(folder / "valid", with_text=True) as writer:
        writer.write([[FIRST]], [[FIRST]], [0], ["a"], ["a"])  # nothing is validated
    if real:
        data = replace(config.data, cache=str(folder / "cache"), cleaning=replace(config.data.cleaning, overlap=False))
        prepared = prepare(replace(config, data=data))
        prepared.tokenizer.save(folder)
        (prepared.folder / "train").rename(folder / "train")
        return prepared.tokenizer.target_size
    random_tokenizer().save(folder)
    random = np.random.default_rng(1)
    sentences = [int(count) for count in _SENTENCES_OF_LENGTH.split()]
    targets = np.repeat(np.arange(5, 5 + len(sentences)), sentences)
    sources = np.maximum(2, np.rint(targets + random.normal(0, _LENGTH_DEVIATION, len(targets)))).astype(int)
    with create_store(folder / "train", with_text=False) as writer:
        ids = [[random.integers(FIRST, VOCABULARY, n).tolist() for n in lengths] for lengths in (sources, targets)]
        writer.write(ids[0], ids[1], np.zeros(len(targets), dtype=np.int32))
    return VOCABULARY


@contextmanager
def _preloaded(library: str) -> Iterator[None]:
    """Processes that are started in the block load this library first; "": none."""
    before = os.environ.get("LD_PRELOAD")
    if library:
        os.environ["LD_PRELOAD"] = library
    try:
        yield
    finally:
        os.environ.pop("LD_PRELOAD", None)
        if before is not None:
            os.environ["LD_PRELOAD"] = before


@contextmanager
def _both_sides(config: Config, folder: Path, case: Case) -> Iterator[list[Connection]]:
    """Starts ours and the baseline, each in a process of its own. Sent n, each makes n updates and answers with their
    figures; sent 0 it answers with its memory and ends."""
    pipes = [Pipe(), Pipe()]
    in_float32 = replace(config, train=replace(config.train, precision="float32"), run_dir=f"{config.run_dir}-float32")
    baseline = (True, in_float32) if case.bfloat16 else (False, config)
    sides = zip(((True, config), baseline), pipes, (case.profile, None))
    work = [(ours, other, its, folder, profile) for (ours, its), (_, other), profile in sides]
    with side_processes(_side, work):
        for _, other in pipes:
            other.close()
        yield [connection for connection, _ in pipes]


def _side(ours: bool, connection: Connection, config: Config, folder: Path, profile: Path | None) -> None:
    if not ours:
        train_plainly(connection, config, folder)
        return
    processes = worker_processes(config, torch.device(config.device))
    with own_processes(processes, _ours, config, folder, None, profile) as group:
        _ours(group, config, folder, connection, profile)


def _ours(group: Group, config: Config, folder: Path, connection: Connection | None, profile: Path | None) -> None:
    """The training loop as `train.py` sets it up; the main process has the connection."""
    keep_freed_memory()
    device = torch.device(config.device)
    reset_peak(device)
    start = peak_bytes(device)
    data = Prepared(load_tokenizer(folder), open_store(folder / "train"), open_store(folder / "valid"), {}, {}, folder)
    training = Training(config, data, setup(config, data, device, group), group, None, time.monotonic())
    updates = training.timed(training.loader.updates(0, 0))
    if profile:
        _profiled(training, updates, profile if connection else None)
    while (count := group.broadcast(connection.recv() if connection else 0)) > 0:
        training.state.sums = {}
        began = training.clock = time.perf_counter()
        for update in islice(updates, count):
            training.update(update, False)
        sums = {name: float(value) for name, value in training.state.sums.items()}
        seconds = time.perf_counter() - began
        if connection:
            figures = {"tokens": sums["tokens"], "seconds": seconds, "processes": group.world_size}
            shares = {"padding": 1 - sums["filled"] / sums["slots"], "data_wait": sums["data_seconds"] / seconds}
            connection.send(figures | shares)
    peak = peak_bytes(device)
    parts = group.gather((peak - start, peak))
    if connection:
        connection.send({"growth": sum(part[0] for part in parts), "resident": sum(part[1] for part in parts)})


def _profiled(training: Training, updates: Iterator[Update], file: Path | None) -> None:
    """Three updates after the first ones; file: gets the trace of them."""
    training.clock = time.monotonic()
    for update in islice(updates, WARM_UP):
        training.update(update, False)
    with torch.profiler.profile() as profiler:
        for update in islice(updates, 3):
            training.update(update, False)
    if file:
        profiler.export_chrome_trace(str(file))


def _operations(config: Config, size: int) -> float:
    """Floating-point operations a target token needs, forward and backward, if sources are as long as targets."""
    model = config.model
    encoder = model.encoder_layers * (4 * model.width**2 + 2 * model.width * model.encoder_feed_forward)
    decoder = model.decoder_layers * (8 * model.width**2 + 2 * model.width * model.decoder_feed_forward)
    return 6.0 * (encoder + decoder + model.width * size)


def _matrix_rate(device: str, threads: int) -> float:
    """Floating-point operations a second of a large matrix product in the dtype that training uses."""
    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        if device == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
