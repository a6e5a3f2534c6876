"""Training updates against a plain PyTorch loop on the same pairs: speed, memory, and what the time goes to.

Each side is a process of its own (ours with the further ones that it starts) that lives through the whole
measurement; the sides work in turns, and wait for each other asleep. Ours is the training loop as `train.py` runs it;
the other is what one writes from torch's tutorial, with batches of similar length: `torch.nn.Transformer`,
`CrossEntropyLoss(label_smoothing=0.1)`, Adam, all cores as threads of one process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.batching import pad_batch
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.store import TokenStore, create_store, open_store
from mt.losses.build import build_loss
from mt.model.directory import build_model
from mt.model.positions import sinusoids
from mt.processes import keep_freed_memory
from mt.training import memory
from mt.training.checkpoint import Progress
from mt.training.launch import own_processes
from mt.training.loop import Training
from mt.training.optimiser import build_optimiser
from mt.training.parallel import Group
from mt.training.run import worker_processes

TOKENS = 4096
VOCABULARY = 8000
PAD, BEGIN, FIRST = 0, 2, 4
BASELINE = "nn.Transformer, CrossEntropyLoss(label_smoothing=0.1), length-grouped batches, one process"
WARM_UP = 2
TCMALLOC = ("/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4", "/usr/lib/aarch64-linux-gnu/libtcmalloc_minimal.so.4")
_TARGET_LENGTHS = [
    0,
    0,
    0,
    0,
    0,
    5,
    22,
    130,
    564,
    1232,
    1772,
    2375,
    2880,
    2846,
    2741,
    2563,
    2293,
    1868,
    1614,
    1276,
    1083,
    833,
    695,
    516,
    400,
    308,
    228,
    199,
    137,
    98,
    72,
    64,
    35,
    33,
    16,
    24,
    17,
    9,
    11,
    12,
    5,
    7,
    5,
    2,
    4,
    1,
    3,
    1,
    0,
    1,
]
"""English sentences of Multi30k's training text by their number of joint pieces, end of sentence included"""
_LENGTH_DEVIATION = 2.7
"""German ones differ by so many pieces (standard deviation)"""


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


def cases(corpora: Path | None = None, profile: Path | None = None) -> dict[str, Case]:
    """The comparisons by name: two sizes with the C library's allocator, and with tcmalloc where that is installed."""
    sizes = [
        Case("small", 3, 256, updates=6, corpora=corpora, profile=profile),
        Case("large", 6, 512, updates=2, corpora=corpora, profile=profile),
    ]
    library = next((path for path in TCMALLOC if Path(path).exists()), "")
    with_tcmalloc = [replace(size, name=f"{size.name}_tcmalloc", preload=library) for size in sizes if library]
    return {case.name: case for case in (*sizes, *with_tcmalloc)}


def measure(case: Case, *, device: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Compares the two.

    Args:
        case: what to compare.
        device: "cpu" or "cuda".
        threads: processor threads of each side, over all its processes.
        rounds: how often each side is timed, each time over a few updates; fewer when `seconds` are over, at least 3.

    Returns:
        As `benchmarks.measure.measure`; units are target tokens, padding not counted. settings also has what our time
        goes to: padding and data_wait (shares), utilisation (share of the rate of a large matrix product).
    """
    config = _config(case, device, threads)
    with TemporaryDirectory() as folder:
        size = _write_pairs(Path(folder), config, case.corpora is not None)
        sides = [
            _Side(side, config, folder, size, case.preload, case.profile if side is _ours else None)
            for side in (_ours, _plain)
        ]
        try:
            turns = _in_turns(sides, case.updates, rounds, seconds)
            peaks = [side.ask(0) for side in sides]
        finally:
            for side in sides:
                side.process.kill()
    rates = [[turn[side]["tokens"] / turn[side]["seconds"] for turn in turns] for side in (0, 1)]
    ratios = [ours / plain for ours, plain in zip(*rates)]
    ours = turns[-1][0]
    matrix_rate = _matrix_rate(device, threads)
    return {
        "case": case.name,
        "ours": round(median(rates[0]), 1),
        "baseline": round(median(rates[1]), 1),
        "ratio": round(median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "peak_mb": round(peaks[0]["growth"] / 1e6, 1),
        "baseline_peak_mb": round(peaks[1]["growth"] / 1e6, 1),
        "settings": {
            "baseline": BASELINE,
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
            "resident_mb": round(peaks[0]["resident"] / 1e6),
            "baseline_resident_mb": round(peaks[1]["resident"] / 1e6),
            "padding": round(ours["padding"], 4),
            "data_wait": round(ours["data_wait"], 4),
            "utilisation": round(median(rates[0]) * _operations(config, size) / matrix_rate, 3),
            "matrix_gflops": round(matrix_rate / 1e9, 1),
            "allocator": "tcmalloc, both sides" if case.preload else "the C library's, both sides",
            "torch": str(torch.__version__),
        },
    }


def _config(case: Case, device: str, threads: int) -> Config:
    text = [CorpusConfig(source=["multi30k/train.de.gz"], target=["multi30k/train.en.gz"])]
    return Config(
        run_dir="unused",
        data=DataConfig(
            source_language="de", target_language="en", train=text, valid=text, root=str(case.corpora or ".")
        ),
        tokenizer=TokenizerConfig(algorithm="bpe", vocabulary_size=VOCABULARY),
        model=ModelConfig(
            width=case.width, encoder_layers=case.layers, decoder_layers=case.layers, norm="post", attention_dropout=0.1
        ),
        train=TrainConfig(max_steps=10**9, batch_tokens=TOKENS, warmup_steps=400),
        decode=DecodeConfig(beam=1),
        device="cuda" if device == "cuda" else "cpu",
        threads=threads,
    )


def _write_pairs(folder: Path, config: Config, real: bool) -> int:
    """Writes the store that both sides read; the size of the vocabulary."""
    if real:
        data = replace(config.data, cache=str(folder / "cache"), cleaning=replace(config.data.cleaning, overlap=False))
        prepared = prepare(replace(config, data=data))
        (prepared.folder / "train").rename(folder / "pairs")
        return prepared.tokenizer.target_size
    random = np.random.default_rng(1)
    targets = np.repeat(np.arange(len(_TARGET_LENGTHS)), _TARGET_LENGTHS)
    sources = np.maximum(2, np.rint(targets + random.normal(0, _LENGTH_DEVIATION, len(targets)))).astype(int)
    with create_store(folder / "pairs", with_text=False) as writer:
        ids = [[random.integers(FIRST, VOCABULARY, n).tolist() for n in lengths] for lengths in (sources, targets)]
        writer.write(ids[0], ids[1], np.zeros(len(targets), dtype=np.int32))
    return VOCABULARY


class _Side:
    """One of the two, in a process of its own; asked for n updates it answers with their figures."""

    def __init__(
        self, work: Callable[..., None], config: Config, folder: str, size: int, preload: str, profile: Path | None
    ) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, config, folder, size, profile))
        before = os.environ.get("LD_PRELOAD")
        os.environ["LD_PRELOAD"] = preload or before or ""
        self.process.start()
        os.environ.pop("LD_PRELOAD")
        if before is not None:
            os.environ["LD_PRELOAD"] = before
        other.close()

    def ask(self, updates: int) -> dict[str, Any]:
        self.connection.send(updates)
        return cast(dict[str, Any], self.connection.recv())


def _in_turns(sides: list[_Side], updates: int, rounds: int, seconds: float) -> list[list[dict[str, Any]]]:
    """Figures of both sides for each round; the one that begins changes."""
    for side in sides:
        side.ask(WARM_UP)
    turns: list[list[dict[str, Any]]] = []
    started = time.monotonic()
    while len(turns) < rounds and (len(turns) < 3 or time.monotonic() - started < seconds):
        figures: list[dict[str, Any]] = [{}, {}]
        for number in (0, 1) if len(turns) % 2 == 0 else (1, 0):
            figures[number] = sides[number].ask(updates)
        turns.append(figures)
    return turns


def _ours(connection: Connection, config: Config, folder: str, size: int, profile: Path | None) -> None:
    """The training loop as `train.py` sets it up."""
    device = torch.device(config.device)
    with own_processes(worker_processes(config, device), _ours_in, config, folder, size, None, profile) as group:
        _ours_in(group, config, folder, size, connection, profile)


def _ours_in(
    group: Group,
    config: Config,
    folder: str,
    size: int,
    connection: Connection | None = None,
    profile: Path | None = None,
) -> None:
    keep_freed_memory()
    torch.set_num_threads(max(1, config.threads // group.world))
    device = torch.device(config.device)
    start = memory.current_bytes(device)
    memory.reset_peak(device)
    torch.manual_seed(1)
    store = open_store(Path(folder) / "pairs")
    sizes = SimpleNamespace(pad_id=PAD, begin_id=BEGIN, end_id=3, source_size=size, target_size=size)
    prepared = Prepared(cast(Any, sizes), store, _Nothing(), {}, {}, Path(folder))
    model = build_model(config, cast(Any, sizes)).to(device)
    loss = build_loss(config.loss, pad_id=PAD, begin_id=BEGIN, vocabulary_size=size)
    training = Training(config, prepared, model, loss, Progress(), build_optimiser(model, config.train), None, group)
    updates = training.timed(training.feed.updates(0, 0))
    if profile and connection is not None:
        _trace(training, islice(updates, WARM_UP + 3), profile)
    elif profile:
        for update in islice(updates, WARM_UP + 3):
            training.update(update, False)
    while (count := group.share(connection.recv() if connection is not None else 0)) > 0:
        training.progress.sums = {}
        began = time.perf_counter()
        for update in islice(updates, count):
            training.update(update, False)
        sums = {name: float(value) for name, value in training.progress.sums.items()}
        seconds = time.perf_counter() - began
        if connection is not None:
            connection.send(
                {
                    "tokens": sums["tokens"],
                    "seconds": seconds,
                    "padding": 1 - sums["filled"] / sums["slots"],
                    "data_wait": sums["data_seconds"] / seconds,
                    "processes": group.world,
                }
            )
    peak = memory.peak_bytes(device)
    parts = group.gather((peak - start, peak))
    if connection is not None:
        connection.send({"growth": sum(part[0] for part in parts), "resident": sum(part[1] for part in parts)})


class _Nothing(TokenStore):
    """A store without pairs, for a run that does not validate."""

    def __init__(self) -> None:
        self._starts = [0]


def _trace(training: Training, updates: Iterator[Any], file: Path) -> None:
    for update in islice(updates, WARM_UP):
        training.update(update, False)
    with torch.profiler.profile() as profiler:
        for update in updates:
            training.update(update, False)
    profiler.export_chrome_trace(str(file))


class _Plain(nn.Module):
    """The model as the parts that torch brings make it."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, config.width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        self.layers = nn.Transformer(
            config.width,
            config.encoder_heads,
            config.encoder_layers,
            config.decoder_layers,
            config.encoder_feed_forward,
            config.dropout,
            batch_first=True,
        )
        self.register_buffer("positions", sinusoids(256, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.width**0.5

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        positions = cast(torch.Tensor, self.positions)
        hidden: torch.Tensor = self.dropout(self.embedding(ids) * self.scale + positions[: ids.size(1)])
        return hidden

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.size(1), device=target.device).isinf()
        padding = source == PAD
        hidden = self.layers(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_key_padding_mask=target == PAD,
            tgt_is_causal=True,
        )
        return nn.functional.linear(hidden, self.embedding.weight)


def _plain(connection: Connection, config: Config, folder: str, size: int, _: Path | None) -> None:
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    start = memory.current_bytes(device)
    memory.reset_peak(device)
    torch.manual_seed(1)
    model = _Plain(config.model, size).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.9, 0.98), eps=1e-9)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=0.1)
    batches = _grouped_batches(open_store(Path(folder) / "pairs"))
    while (count := connection.recv()) > 0:
        tokens, began = 0, time.perf_counter()
        for source, target in islice(batches, count):
            source, target = source.to(device), target.to(device)
            begin = torch.full((len(target), 1), BEGIN, device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(source, torch.cat([begin, target[:, :-1]], dim=1))
                loss = criterion(logits.flatten(0, 1), target.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tokens += int((target != PAD).sum())
        connection.send({"tokens": tokens, "seconds": time.perf_counter() - began})
    peak = memory.peak_bytes(device)
    connection.send({"growth": peak - start, "resident": peak})


def _grouped_batches(store: TokenStore) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Equally many sentences a batch, of about TOKENS target tokens, sorted by length among 50 batches."""
    random = np.random.default_rng(1)
    rows = max(1, round(TOKENS * len(store) / int(store.target_lengths.sum())))
    while True:
        order = random.permutation(len(store))
        batches = []
        for start in range(0, len(order), 50 * rows):
            pool = order[start : start + 50 * rows]
            pool = pool[np.argsort(store.source_lengths[pool], kind="stable")]
            batches += [pool[first : first + rows] for first in range(0, len(pool), rows)]
        for index in random.permutation(len(batches)):
            sides = ([side(int(pair)) for pair in batches[index]] for side in (store.source, store.target))
            source, target = (torch.from_numpy(pad_batch(list(side), PAD)) for side in sides)
            yield source, target


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
