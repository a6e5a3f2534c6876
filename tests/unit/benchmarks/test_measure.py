"""The benchmark's own honesty: equal work on both sides, ratios by round, peaks above the inputs."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from benchmarks.losses import cases, prepare
from benchmarks.measure import Case, Work, measure

CLOCK = [0.0]


def pretend(device: str) -> tuple[Work, Work]:
    """Ours takes a third of the baseline's time, and holds 30 MB to its 60, beside 240 MB of input."""
    held = torch.ones(60_000_000, device=device)

    def work(seconds: float, megabytes: int) -> None:
        CLOCK[0] += seconds
        torch.full((megabytes * 250_000,), float(held[0]))

    return lambda: work(0.5, 30), lambda: work(1.5, 60)


def test_ratio_and_peaks_are_those_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: CLOCK[0])
    case = Case("pretend", pretend, 10, {"baseline": "more work"})
    result = measure(case, device="cpu", threads=1, rounds=3, seconds=0.0)
    assert (result["low"], result["ratio"], result["high"]) == (3.0, 3.0, 3.0)
    assert result["ours"] == pytest.approx(20.0) and result["baseline"] == pytest.approx(6.7)
    assert 28 < result["peak_mb"] < 45
    assert 58 < result["baseline_peak_mb"] < 75
    assert result["settings"]["rounds"] == 3
    assert {"baseline", "allocator", "threads", "torch"} <= set(result["settings"])


@pytest.mark.parametrize("name", [name for name in cases() if name.endswith("10000")])
def test_the_sides_of_a_case_do_the_same_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    backward = torch.Tensor.backward

    def note(self: torch.Tensor) -> None:
        seen.append(float(self.detach()))
        backward(self)

    monkeypatch.setattr(torch.Tensor, "backward", note)
    config = cases()[name].prepare.keywords["config"]
    for way in prepare("cpu", config=config, vocabulary=60, tokens=20, width=8):
        way()
    if name.startswith("label_smoothed_kl"):  # the constant entropy lies between them
        low, high = 0.1 / 60, 0.9 + 0.1 / 60
        entropy = -high * torch.tensor(high).log() - 59 * low * torch.tensor(low).log()
        assert seen[1] - seen[0] == pytest.approx(float(entropy), abs=1e-5)
    assert len(seen) == 2
