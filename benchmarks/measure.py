"""Two ways to do the same work, measured side by side.

Speed: both take turns, so that whatever else the machine does hits both alike; the ratio is taken round by round.
Memory: each way has a process of its own, so that nothing of the other is still held.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import median
from typing import Any, TypeVar

import torch

from mt.processes import keep_freed_memory
from mt.training.resources import peak_bytes, reset_peak

Work = Callable[[], None]
Figures = TypeVar("Figures")
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """One comparison. `prepare` is a function of a module or a partial of one, so that other processes can call it."""

    name: str
    prepare: Callable[[str], tuple[Work, Work]]
    """builds the inputs on a device; returns ours and the baseline, each a call that does the work once"""
    units: int
    """what one call gets through, such as tokens"""
    settings: dict[str, Any]
    """what a reader has to know, the baseline first"""
    keep_memory: bool = False
    """both ways keep the memory that tensors give back, as training does on a processor"""
    processes: int = 0
    """how many processes a way may start, all alike"""


def measure(case: Case, *, device: str, threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Compares the two ways.

    Args:
        case: what to compare.
        device: "cpu" or "cuda".
        threads: processor threads.
        rounds: how often each way is timed; see `in_turns`.
        seconds: how long that may take.

    Returns:
        See `result`.
    """
    peaks = [_in_own_process(_growth, case, side, device, threads) for side in (0, 1)]
    kept = _set_up(threads, case.keep_memory)
    ways = case.prepare(device)
    for way in ways:
        way()  # warms up

    def timed(side: int) -> float:
        _wait(device)
        begun = time.perf_counter()
        ways[side]()
        _wait(device)
        return time.perf_counter() - begun

    rates = [(case.units / ours, case.units / baseline) for ours, baseline in in_turns(timed, rounds, seconds)]
    allocator = f"{'freed memory kept, as in training' if kept else 'default of the C library'}, both sides"
    settings = {
        **case.settings,
        "device": device,
        "threads": threads,
        "rounds": len(rates),
        "allocator": "torch's CUDA caching allocator, both sides" if device == "cuda" else allocator,
    }
    return result(case.name, rates, peaks, settings)


def in_turns(run: Callable[[int], Figures], rounds: int, seconds: float) -> list[tuple[Figures, Figures]]:
    """What ours, `run(0)`, and the baseline, `run(1)`, give in each round; the one that begins changes.

    There are fewer rounds when `seconds` are over, but at least three.
    """
    turns: list[tuple[Figures, Figures]] = []
    started = time.monotonic()
    while len(turns) < rounds and (len(turns) < LEAST_ROUNDS or time.monotonic() - started < seconds):
        if len(turns) % 2 == 0:
            ours, baseline = run(0), run(1)
        else:
            baseline, ours = run(1), run(0)
        turns.append((ours, baseline))
    return turns


def result(
    case: str, rates: Sequence[tuple[float, float]], peaks: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON object of a case.

    Args:
        case: its name.
        rates: of ours and the baseline in each round, units a second.
        peaks: of ours and the baseline, bytes above the start.
        settings: what a reader has to know.

    Returns:
        case; ours and baseline (medians); ratio (ours over baseline, median over the rounds), low and high (lowest
        and highest round); peak_mb and baseline_peak_mb (10^6 bytes); settings.
    """
    ratios = [ours / baseline for ours, baseline in rates]
    return {
        "case": case,
        "ours": round(median(ours for ours, _ in rates), 1),
        "baseline": round(median(baseline for _, baseline in rates), 1),
        "ratio": round(median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "peak_mb": round(peaks[0] / 1e6, 1),
        "baseline_peak_mb": round(peaks[1] / 1e6, 1),
        "settings": {**settings, "torch": str(torch.__version__)},
    }


def _set_up(threads: int, keep_memory: bool) -> bool:
    """Whether freed memory is kept."""
    torch.set_num_threads(threads)
    return keep_memory and keep_freed_memory()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _in_own_process(function: Callable[..., int], *arguments: Any) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # unlike a Pool's it may have processes of its own
        return pool.submit(function, *arguments).result()


def _growth(case: Case, side: int, device: str, threads: int) -> int:
    """Peak memory of one way above what its inputs hold, in bytes."""
    _set_up(threads, case.keep_memory)
    way = case.prepare(device)[side]
    reset_peak(torch.device(device))
    before = peak_bytes(torch.device(device))
    way()
    _wait(device)
    growth = peak_bytes(torch.device(device)) - before
    if device == "cuda":
        return growth
    # A child begins with what its parent held. Of several alike the largest is known.
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return growth + max(0, largest - before) * case.processes
