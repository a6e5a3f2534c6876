"""Two ways to do the same work, measured side by side.

Speed: both take turns in one process, so that whatever else the machine does hits both alike; the ratio is taken
round by round. Memory: each way has a process of its own, so that nothing of the other is still held.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from mt.processes import keep_freed_memory

Work = Callable[[], None]
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """One comparison. `prepare` is a function of a module, so that another process can call it."""

    name: str
    prepare: Callable[..., tuple[Work, Work]]
    """builds the inputs; returns ours and the baseline, each a call that does the work once"""
    arguments: dict[str, Any]
    """of `prepare`, beside `device`"""
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
        rounds: how often each way is timed, fewer when `seconds` are over, but at least three times.

    Returns:
        case; ours and baseline (units a second, medians); ratio (ours over baseline, median over the rounds), low
        and high (lowest and highest round); peak_mb and baseline_peak_mb (growth above the start, in 10^6 bytes);
        settings.
    """
    memory = [_in_own_process(_growth, case, side, device, threads) for side in (0, 1)]
    kept = _set_up(threads, case.keep_memory)
    times = _in_turns(case.prepare(device=device, **case.arguments), device, rounds, seconds)
    ratios = [baseline / ours for ours, baseline in times]
    return {
        "case": case.name,
        "ours": round(case.units / median(ours for ours, _ in times), 1),
        "baseline": round(case.units / median(baseline for _, baseline in times), 1),
        "ratio": round(median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "peak_mb": round(memory[0] / 1e6, 1),
        "baseline_peak_mb": round(memory[1] / 1e6, 1),
        "settings": {
            **case.settings,
            "device": device,
            "threads": threads,
            "rounds": len(times),
            "allocator": _allocator(device, kept),
            "torch": str(torch.__version__),
        },
    }


def _set_up(threads: int, keep_memory: bool) -> bool:
    """Whether freed memory is kept."""
    torch.set_num_threads(threads)
    return keep_memory and keep_freed_memory()


def _allocator(device: str, kept: bool) -> str:
    if device == "cuda":
        return "torch's CUDA caching allocator, both sides"
    return f"{'freed memory kept, as in training' if kept else 'default of the C library'}, both sides"


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _in_turns(ways: tuple[Work, Work], device: str, rounds: int, seconds: float) -> list[tuple[float, float]]:
    """Seconds of ours and of the baseline for each round; the one that begins changes."""
    for way in ways:
        way()
    times: list[tuple[float, float]] = []
    started = time.monotonic()
    while len(times) < rounds and (len(times) < _LEAST_ROUNDS or time.monotonic() - started < seconds):
        spent = [0.0, 0.0]
        for side in (0, 1) if len(times) % 2 == 0 else (1, 0):
            _wait(device)
            begun = time.perf_counter()
            ways[side]()
            _wait(device)
            spent[side] = time.perf_counter() - begun
        times.append((spent[0], spent[1]))
    return times


def _in_own_process(function: Callable[..., int], *arguments: Any) -> int:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # unlike a Pool's it may have processes of its own
        return pool.submit(function, *arguments).result()


def _growth(case: Case, side: int, device: str, threads: int) -> int:
    """Peak memory of one way above what its inputs hold, in bytes."""
    _set_up(threads, case.keep_memory)
    way = case.prepare(device=device, **case.arguments)[side]
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        _wait(device)
        return torch.cuda.max_memory_allocated() - before
    before = _reset_peak()
    way()
    # A child begins with what its parent held. Of several alike the largest is known.
    children = max(0, _children_peak() - before) * case.processes
    return _peak() - before + children


def _children_peak() -> int:
    """Most memory that one of the processes started and ended by this one has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak() -> int:
    """Lets the peak start anew from here, where the system can; the resident memory here, in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Most memory this process has held since `_reset_peak`, or since its start, in bytes."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
