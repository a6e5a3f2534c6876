"""Checkpoints survive a kill at any moment of their writing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mt.config_file import read_config
from mt.corpus.tokenizer import load_tokenizer
from mt.model.directory import build_model, fingerprint, weights
from mt.training.checkpoint import Checkpoints, TrainingParts, TrainState
from mt.training.optimiser import MovingAverage, Optimiser


@pytest.fixture
def run(tiny_model: Path) -> tuple[Checkpoints, torch.nn.Module, Optimiser, Path]:
    config = read_config(tiny_model / "config.yaml")
    model = build_model(config, load_tokenizer(tiny_model))
    return Checkpoints(config), model, Optimiser(model, config.train), tiny_model


def test_the_best_pointer_is_moved_before_the_last_one(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Killed in between, a run begins again before this checkpoint; the other way round it would keep the old best."""
    checkpoints, model, optimiser, folder = run
    written = []
    monkeypatch.setattr(
        "mt.training.checkpoint.write_text", lambda path, text: (written.append(path.name), path.write_text(text))
    )
    state = TrainState(step=2, best="step_00000002", scores={"step_00000002": 1.0})
    checkpoints.save(TrainingParts(model, None, optimiser, None, state), load_tokenizer(folder), {})  # type: ignore[arg-type]
    assert written[-2:] == ["best", "last"]


def test_a_checkpoint_brings_back_weights_average_and_progress(run) -> None:  # type: ignore[no-untyped-def]
    checkpoints, model, optimiser, folder = run
    average = MovingAverage(model, 0.9)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
        parameter.grad = torch.ones_like(parameter)
    optimiser.step(0.0)
    average.update(1)
    state = TrainState(
        step=3, epoch=1, batch=2, best="step_00000003", scores={"step_00000003": 0.1}, sums={"loss": 1 / 3}
    )
    checkpoints.save(TrainingParts(model, None, optimiser, average, state), load_tokenizer(folder), {})  # type: ignore[arg-type]
    expected = fingerprint(weights(model))
    with average.applied():
        expected_average = fingerprint(weights(model))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    other = MovingAverage(model, 0.9)
    last = checkpoints.last()
    assert last is not None
    saved = checkpoints.read(last)
    saved.restore(model, optimiser, other)
    assert saved.state == state
    assert fingerprint(weights(model)) == expected
    with other.applied():
        assert fingerprint(weights(model)) == expected_average != expected


def test_what_a_kill_left_behind_is_removed_or_put_back(run) -> None:  # type: ignore[no-untyped-def]
    checkpoints, *_ = run
    for name in (".step_00000004.99.tmp", ".step_00000002.99.old", ".step_00000006.99.old", "step_00000002"):
        (checkpoints.folder / name).mkdir(parents=True)
    (checkpoints.run / ".best.99.tmp").write_text("step")
    checkpoints.clean()
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["step_00000002", "step_00000006"]
    assert not list(checkpoints.run.glob(".*.tmp"))


def test_only_the_newest_checkpoints_and_the_best_are_kept(run) -> None:  # type: ignore[no-untyped-def]
    checkpoints, model, optimiser, folder = run
    for step in range(1, 9):
        state = TrainState(step=step, best="step_00000001", scores={"step_00000001": 1.0})
        checkpoints.save(TrainingParts(model, None, optimiser, None, state), load_tokenizer(folder), {})  # type: ignore[arg-type]
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == [
        f"step_{step:08d}" for step in (1, 4, 5, 6, 7, 8)
    ]


def test_of_equal_scores_the_lower_nll_is_the_best(run) -> None:  # type: ignore[no-untyped-def]
    """A young run has BLEU 0.00 for a while, in which it learns all the same."""
    checkpoints, *_ = run  # by BLEU
    state = TrainState()
    found = [(0.0, 5.0), (0.0, 4.0), (0.0, 4.5), (1.0, 6.0), (0.5, 1.0), (1.0, 6.0), (1.0, 5.5)]
    best = [
        checkpoints.judge(f"step_{step:08d}", {"bleu": bleu, "nll": nll}, state)
        for step, (bleu, nll) in enumerate(found)
    ]
    assert best == [True, True, False, True, False, False, True]
    assert (state.best, state.bad_validations) == ("step_00000006", 0)
    for name in state.scores:
        (checkpoints.folder / name).mkdir(parents=True)
    object.__setattr__(checkpoints.config, "train", replace(checkpoints.config.train, average="best", average_count=3))
    assert checkpoints._to_average(state) == ["step_00000006", "step_00000003", "step_00000005"]


def test_by_a_falling_figure_the_lower_one_is_the_best(run) -> None:  # type: ignore[no-untyped-def]
    checkpoints = Checkpoints(replace(run[0].config, train=replace(run[0].config.train, best_by="ece")))
    state = TrainState()
    found = [(0.2, 5.0), (0.2, 6.0), (0.2, 4.0), (0.3, 1.0), (0.1, 9.0)]
    best = [
        checkpoints.judge(f"step_{step:08d}", {"ece": ece, "nll": nll}, state) for step, (ece, nll) in enumerate(found)
    ]
    assert best == [True, False, True, False, True]


def test_a_state_of_earlier_versions_knows_no_nll_and_keeps_its_best_among_equals(run) -> None:  # type: ignore[no-untyped-def]
    state = TrainState(step=1, best="step_00000001", scores={"step_00000001": 0.0})
    assert not run[0].judge("step_00000002", {"bleu": 0.0, "nll": 4.0}, state)


def test_a_figure_that_does_not_move_is_told_once_each_time_that_it_stands_still(run) -> None:  # type: ignore[no-untyped-def]
    found = {0: [0.0] * 6, 1: [1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0], 2: [0.0, 1.0, 0.0, 1.0], 3: [3.0, 3.0]}
    told = {}
    for number, scores in found.items():
        state = TrainState()
        told[number] = []
        for step, score in enumerate(scores):
            state.scores[f"step_{step:08d}"] = score
            told[number] += [step] if run[0].unmoved(state) else []
    assert told == {0: [2], 1: [3, 7], 2: [], 3: []}
