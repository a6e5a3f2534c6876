"""Fitting, storing and using a recalibration, on a model with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mt.cli.calibrate import main as calibrate_command
from mt.cli.translate import main as translate
from mt.decoding.confidence import FILE, load_recalibration, save_recalibration
from mt.decoding.inputs import TOKEN_INPUTS
from mt.decoding.scoring import Distributions
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.recalibrate import _ForcedMaps, _TokenMaps, calibrate
from mt.evaluation.run import evaluate
from mt.evaluation.test_set import TestSet, overlaps
from mt.evaluation.tokens import teacher_forced
from mt.metrics.estimator import Logistic
from mt.model.directory import LoadedModel, load_model

SOURCES = [f"{line} {number}" for number in range(6) for line in ("ein Hund läuft", "eine Katze schläft")]
REFERENCES = [f"{line} {number}" for number in range(6) for line in ("a dog runs", "a cat sleeps")]
OTHERS = [f"die Frau liest {number}" for number in range(8)], [f"the woman reads {number}" for number in range(8)]


def text(sources: list[str], reference: list[str]) -> TestSet:
    return TestSet(sources, [reference], {"lines": len(sources), "target_language": None})


@pytest.fixture
def calibrated(tiny_model: Path) -> tuple[LoadedModel, dict]:
    loaded = load_model(tiny_model, "cpu")
    development = text(SOURCES * 2, REFERENCES * 2)
    saved = calibrate(loaded, development, folds=2, beam=2)
    save_recalibration(saved, tiny_model)
    return loaded, saved


def test_every_candidate_is_judged_and_of_those_that_harm_no_group_the_one_with_the_best_worst_group_is_picked(
    calibrated: tuple[LoadedModel, dict],
) -> None:
    _, saved = calibrated
    forced, own = saved["teacher_forced"], saved["inference"]
    fitted = {"temperature", "link_temperature"}
    assert set(forced["candidates"]) == {"identity", "link", *fitted, *(f"top_{name}" for name in fitted)}
    assert set(own["candidates"]) == {"identity", "logistic", "isotonic"}
    for part in (forced, own):
        tolerated = 0.003 * (3000 / 24) ** 0.5  # about so many tokens a group, or more
        allowed = [block for block in part["candidates"].values() if block["worst_change"] <= tolerated]
        assert part["after"]["worst_ece"] == min(block["worst_ece"] for block in allowed)
        assert part["before"]["worst_change"] == 0
        assert part["before"] == part["candidates"]["identity"] and part["after"] == part["candidates"][part["picked"]]
        assert all(block["worst_ece"] >= block["ece"] - 1e-9 for block in part["candidates"].values())
    assert own["picked"] != "identity"  # random weights are far from true


def test_what_is_no_better_than_the_model_in_its_worst_group_is_not_stored() -> None:
    generator = np.random.default_rng(1)
    lengths, group = [20] * 400, np.arange(400) * 4 // 400
    confidence = generator.uniform(0.05, 0.95, 8000)
    right = generator.random(8000) < confidence  # as right as stated, whatever the group
    values = np.column_stack(
        [np.log(confidence / (1 - confidence)), generator.normal(size=(8000, len(TOKEN_INPUTS) - 1))]
    )
    values[:, 1] = np.repeat(group, 20)  # what differs between the groups misleads
    right[values[:, 1] == 0] |= generator.random(2000) < 0.3
    judged = _TokenMaps(confidence, right, values, group, lengths, None).report("inference")
    worst = {name: block["worst_ece"] for name, block in judged["candidates"].items()}
    assert judged["candidates"]["logistic"]["worst_change"] > 0.003 and judged["picked"] != "logistic", worst


def test_a_wrong_tail_does_not_spoil_the_confidence_in_the_likeliest_token(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(tiny_model, "cpu")
    lines, tokens, generator = 20, 200, torch.Generator().manual_seed(1)
    certain = 0.55 + 0.4 * torch.rand(lines, tokens, generator=generator)
    right = torch.rand(lines, tokens, generator=generator) < certain  # token 5 is as right as the model says,
    targets = torch.where(right, 5, 7)  # but where it is wrong, it is never 6, which the model thinks of next
    probabilities = torch.full((lines, tokens, loaded.tokenizer.target_size), 1e-9)
    probabilities[..., 5], probabilities[..., 6], probabilities[..., 7] = certain, 0.999 * (1 - certain), 1e-5

    def scores(loaded: LoadedModel, sources: Any, targets_: Any, *, observe: Any) -> Iterator[None]:
        for pair in range(lines):
            log_probs = probabilities[pair].log().log_softmax(-1)
            none = torch.empty(tokens, 0)
            observe(Distributions(log_probs, targets[pair], np.full(tokens, pair), np.arange(tokens), none))
            yield None

    monkeypatch.setattr("mt.evaluation.recalibrate.score_pairs", scores)
    forced = _ForcedMaps(loaded, [[1]] * lines, targets.tolist(), np.arange(lines) % 2)
    report = forced.report("teacher_forced")
    picked, blocks = report["picked"], report["candidates"]
    temperatures = {name: each.get("temperature") for name, each in forced.maps.items()}
    assert temperatures["temperature"] > 1.5 and temperatures["top_temperature"] == pytest.approx(1, abs=0.1)
    assert blocks["temperature"]["nll"] < blocks["top_temperature"]["nll"]  # what the former is for
    assert blocks["temperature"]["ece"] > 0.05 and blocks[picked]["ece"] < 2 * blocks[picked]["noise_floor"]


def test_before_is_what_the_evaluation_measures(calibrated: tuple[LoadedModel, dict]) -> None:
    loaded, saved = calibrated
    measured = teacher_forced(loaded, SOURCES * 2, REFERENCES * 2).result()
    for name in ("tokens", "ece", "nll", "brier", "accuracy"):
        assert saved["teacher_forced"]["before"][name] == pytest.approx(measured[name], rel=1e-5), name


def test_translation_states_the_estimated_confidence_and_quality(
    calibrated: tuple[LoadedModel, dict], tiny_model: Path
) -> None:
    loaded, saved = calibrated
    raw = list(Translator(loaded, recalibrate=False).translate(["ein Hund läuft", ""]))
    assert "quality" not in raw[0] and raw[0]["token_confidence"] == pytest.approx(np.exp(raw[0]["log_probs"]))
    save_recalibration(saved | {"inference": saved["inference"] | {"map": _logistic(0.25)}}, tiny_model)
    record, blank = Translator(loaded).translate(["ein Hund läuft", ""])
    assert record["translation"] == raw[0]["translation"] and record["log_probs"] == raw[0]["log_probs"]
    odds = np.exp(record["log_probs"], dtype=np.float64)
    odds = odds / (1 - odds) * np.exp(0.25)
    assert record["token_confidence"] == pytest.approx(odds / (1 + odds), rel=1e-4)
    assert record["confidence"] == pytest.approx(np.mean(record["token_confidence"]), rel=1e-5)
    assert 0 <= record["quality_low"] <= record["quality_high"] <= 100
    assert blank["confidence"] == 1.0 and blank["token_confidence"] == [] and blank["quality"] == 100
    assert "line_inputs" not in record


def _logistic(bias: float) -> dict[str, Any]:
    return {"name": "logistic", **asdict(replace(Logistic.identity(TOKEN_INPUTS), bias=bias))}


def test_confidence_does_not_depend_on_the_lines_around_nor_on_the_number_of_processes(
    calibrated: tuple[LoadedModel, dict],
) -> None:
    loaded, _ = calibrated
    lines = [*dict.fromkeys(SOURCES), "ein Hund. " * 12] * 10
    keys = "confidence", "quality", "quality_low", "quality_high", "token_confidence"
    together = list(Translator(loaded).translate(lines))
    apart = [next(Translator(loaded).translate([line])) for line in lines[:13]]
    shared = list(Translator(loaded).translate([f"{line} {n}" for n, line in enumerate(lines)], processes=2))
    alone = list(Translator(loaded).translate([f"{line} {n}" for n, line in enumerate(lines)]))
    for one, other in [*zip(apart, together), *zip(shared, alone)]:
        for key in keys:
            assert one[key] == pytest.approx(other[key], abs=0.02 if key.startswith("quality") else 1e-4), key


def test_a_text_unlike_the_one_fitted_on_is_told(
    calibrated: tuple[LoadedModel, dict], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, _ = calibrated
    translator = Translator(loaded)
    assert translator.fit() is None
    list(translator.translate(SOURCES, beam=2))  # as it was calibrated
    fit = translator.fit()
    assert fit is not None and not fit["unlike"] and "is like the one" in fit["text"]
    unlike = [f"{line} " * 3 for line in SOURCES] * 3
    list(translator.translate(unlike, beam=2))
    fit = translator.fit()
    assert fit is not None and fit["unlike"] and " sd)" in fit["text"]
    (tmp_path / "in").write_text("".join(f"{line}\n" for line in unlike))
    given = [str(tiny_model), "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--threads", "1"]
    translate([*given, "--format", "jsonl"])
    assert "note: this text is unlike the one that confidence was fitted on" in capsys.readouterr().err
    results = evaluate(loaded, text(unlike, REFERENCES * 3), tmp_path / "e", bootstrap=0)
    assert results["fit"]["unlike"]


def test_a_few_lines_move_the_stored_fit_and_leave_the_map_of_distributions(
    calibrated: tuple[LoadedModel, dict], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, saved = calibrated
    few = [str(tmp_path / "few.de"), str(tmp_path / "few.en")]
    for path, lines in zip(few, (OTHERS[0] * 3, OTHERS[1] * 3)):
        Path(path).write_text("".join(f"{line}\n" for line in lines))
    given = ["--source", few[0], "--reference", few[1], "--threads", "1", "--folds", "2", "--beam", "2"]
    assert calibrate_command([*given, "--from", str(tiny_model)]) == 0
    printed = capsys.readouterr().out
    assert "logistic" in printed and "next token" not in printed
    adapted = load_recalibration(loaded)
    assert adapted is not None and adapted.saved["teacher_forced"] == saved["teacher_forced"]
    assert adapted.saved["quality"] != saved["quality"] and adapted.saved["fitted_on"]["lines"] == 24
    (tiny_model / FILE).unlink()
    with pytest.raises(UserError, match="is not calibrated"):
        calibrate_command([*given, "--from", str(tiny_model)])
    with pytest.raises(UserError, match="MODEL is missing"):
        calibrate_command(given)


def test_figures_are_not_reported_on_the_text_fitted_on(
    calibrated: tuple[LoadedModel, dict], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded, saved = calibrated
    fitted_on = saved["fitted_on"]
    assert overlaps(fitted_on, text(SOURCES, REFERENCES)) and overlaps(fitted_on, text(SOURCES[:-3], REFERENCES[:-3]))
    assert not overlaps(fitted_on, text(*OTHERS))
    hidden = [[line.replace(" ", "\u00a0 ") + "\u200b" for line in side] for side in (SOURCES, REFERENCES)]
    assert overlaps(fitted_on, text(*hidden)), "pairs that look the same are the same"
    results = evaluate(loaded, text(SOURCES, REFERENCES), tmp_path / "a", bootstrap=0)
    assert "recalibrated" not in results and "fitted on this text" in capsys.readouterr().err
    results = evaluate(loaded, text(*OTHERS), tmp_path / "b", bootstrap=20)
    recalibrated = results["recalibrated"]
    own = results["calibration"]["teacher_forced"]
    assert recalibrated["teacher_forced"]["tokens"] == own["tokens"] and recalibrated["teacher_forced"] != own
    assert recalibrated["map"] == {name: saved[name]["picked"] for name in ("teacher_forced", "inference")}
    assert results["quality"].keys() >= {"spearman", "coverage", "width", "prr"}
    promise = {"by": "quality", "chrf": 0.0, "precision": 0.9, "threshold": 0.0}
    save_recalibration(saved | {"promises": [promise]}, loaded.folder)
    (kept,) = evaluate(loaded, text(*OTHERS), tmp_path / "c", bootstrap=0)["recalibrated"]["promises"]
    assert kept["reached"] == 1 and kept["lines"] == 8 and kept["kept"]
    forced = saved["teacher_forced"] | {"map": {"name": "temperature", "temperature": 1.0}, "picked": "identity"}
    save_recalibration(saved | {"teacher_forced": forced}, loaded.folder)
    again = evaluate(loaded, text(*OTHERS), tmp_path / "d", bootstrap=0)["recalibrated"]
    assert again["teacher_forced"] is None and again["inference"] == recalibrated["inference"]


def test_maps_of_other_weights_are_refused(calibrated: tuple[LoadedModel, dict], tiny_model: Path) -> None:
    loaded, saved = calibrated
    (tiny_model / FILE).write_text(json.dumps({**saved, "version": 2, "weights": "0"}))
    with pytest.raises(UserError, match="other weights"):
        load_recalibration(loaded)
    (tiny_model / FILE).write_text(json.dumps({"version": 2, "weights": saved["weights"]}))
    with pytest.raises(UserError, match="not as expected"):
        load_recalibration(loaded)


WRONG_MAPS = [
    {"name": "temperature", "temperature": 0.0},
    {"name": "temperature", "temperature": float("nan")},
    {"name": "temperature", "temperature": -1.0},
    {"name": "temperature", "temperature": 1e300},
    {"name": "temperature", "temperature": "1"},
    {"name": "logistic"},
    {**_logistic(0.0), "bias": float("inf")},
    {**_logistic(0.0), "weights": [1.0]},
    {**_logistic(0.0), "inputs": ["a"] * len(TOKEN_INPUTS)},
    {**_logistic(0.0), "scale": [0.0] * len(TOKEN_INPUTS)},
    {"name": "isotonic", "confidence": [0.1, 0.2], "value": [0.1, 7.0]},
    {"name": "isotonic", "confidence": [0.2, 0.1], "value": [0.1, 0.2]},
    {"name": "isotonic", "confidence": [0.1, 0.1], "value": [0.1, 0.2]},
    {"name": "isotonic", "confidence": [0.1, 0.2], "value": [0.2, 0.1]},
    {"name": "isotonic", "confidence": [0.1, 0.2], "value": [0.2]},
    {"name": "isotonic", "confidence": [], "value": []},
    {"name": "isotonic", "confidence": [0.1], "value": [float("nan")]},
    {"name": "link", "smoothing": 1.5, "definition": "uniform", "vocabulary_size": 64, "pad_id": 0},
    {"name": "link", "smoothing": 0.1, "definition": "none", "vocabulary_size": 64, "pad_id": 0},
    {"name": "link", "smoothing": 0.1, "definition": "uniform", "vocabulary_size": 63, "pad_id": 0},
    {"name": "link", "smoothing": 0.1, "definition": "uniform", "vocabulary_size": 46, "pad_id": -1},
]
WRONG_FACTS: list[dict[str, Any]] = [
    {"promises": [{"threshold": "7", "chrf": 1.0, "precision": 0.9}]},
    {"promises": [{}]},
    {"promises": None},
    {"quality": {}},
    {"quality": None},
    {"fitted_on": {"lines": -1, "pairs": ""}},
    {"fitted_on": {"lines": 1, "pairs": 5}},
    {"inference": []},
    {"teacher_forced": {"map": {"name": "isotonic", "confidence": [0.1], "value": [0.1]}, "picked": "isotonic"}},
    *({part: {"map": wrong, "picked": "x"}} for wrong in WRONG_MAPS for part in ("teacher_forced", "inference")),
]


def test_a_calibration_that_is_damaged_or_out_of_range_is_refused(
    calibrated: tuple[LoadedModel, dict], tiny_model: Path
) -> None:
    (loaded, saved), path = calibrated, tiny_model / FILE
    content = path.read_bytes()
    for place in range(0, content.index(b'"checksum"') - 10, len(content) // 50):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match=FILE):
            load_recalibration(loaded)
    for wrong in WRONG_FACTS:
        path.write_text(json.dumps({**saved, "version": 2, **wrong}))
        with pytest.raises(UserError, match=FILE):
            raise AssertionError(f"{load_recalibration(loaded)} from {wrong}")


def test_too_few_sentences_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "few.de").write_text("ein Hund\n" * 9)
    few = str(tmp_path / "few.de")
    with pytest.raises(UserError, match="too few"):
        calibrate_command([str(tiny_model), "--source", few, "--reference", few, "--threads", "1"])
    with pytest.raises(UserError, match="--precision"):
        calibrate_command([str(tiny_model), "--source", few, "--reference", few, "--precision", "95"])


def test_the_command_prints_before_and_after_and_stores(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.de").write_text("".join(line + "\n" for line in SOURCES * 2))
    (tmp_path / "v.en").write_text("".join(line + "\n" for line in REFERENCES * 2))
    assert (
        calibrate_command(
            [
                str(tiny_model),
                "--source",
                str(tmp_path / "v.de"),
                "--reference",
                str(tmp_path / "v.en"),
                "--folds",
                "2",
                "--threads",
                "1",
                "--beam",
                "2",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "identity" in printed and "worst group" in printed and "these 24 lines cannot carry the promise" in printed
    assert load_recalibration(load_model(tiny_model, "cpu")) is not None
