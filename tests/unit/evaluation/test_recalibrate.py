"""Fitting, storing and using a recalibration, on a model with random weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mt.cli.calibrate import main
from mt.decoding.confidence import FILE, load_recalibration, save_recalibration
from mt.decoding.scoring import Distributions, score_pairs
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.recalibrate import MapComparison, calibrate
from mt.evaluation.run import evaluate
from mt.evaluation.test_set import TestSet, overlaps
from mt.evaluation.tokens import teacher_forced
from mt.metrics.maps import Temperature
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


def test_every_map_is_judged_and_the_best_is_picked(calibrated: tuple[LoadedModel, dict]) -> None:
    _, saved = calibrated
    forced, own = saved["teacher_forced"], saved["inference"]
    fitted = {"temperature", "end_temperature", "link_temperature", "link_end_temperature"}
    names = {"identity", "link", *fitted}
    assert set(forced["candidates"]) == {*names, *(f"top_{name}" for name in fitted)}
    assert set(own["candidates"]) == {*names, "isotonic"}
    for part in (forced, own):
        assert part["after"]["label_brier"] == min(block["label_brier"] for block in part["candidates"].values())
    assert forced["before"] == forced["candidates"]["identity"]
    assert forced["after"]["label_brier"] < forced["before"]["label_brier"]  # random weights are far from true
    assert own["after"]["label_brier"] == pytest.approx(own["after"]["brier"])  # the same question


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
            observe(Distributions(log_probs, targets[pair], np.full(tokens, pair), np.arange(tokens)))
            yield None

    monkeypatch.setattr("mt.evaluation.recalibrate.score_pairs", scores)
    forced = MapComparison(loaded, [[1]] * lines, targets.tolist(), np.arange(lines) % 2)
    picked = forced.picked
    blocks = forced.report()["candidates"]
    temperatures = {name: getattr(each, "temperature", None) for name, (*_, each) in forced.maps.items()}
    assert temperatures["temperature"] > 1.5 and temperatures["top_temperature"] == pytest.approx(1, abs=0.1)
    assert blocks["temperature"]["nll"] < blocks["top_temperature"]["nll"]  # what the former is for
    assert blocks["temperature"]["ece"] > 0.05 and blocks[picked]["ece"] < 2 * blocks[picked]["noise_floor"]


def test_before_is_what_the_evaluation_measures(calibrated: tuple[LoadedModel, dict]) -> None:
    loaded, saved = calibrated
    measured = teacher_forced(loaded, SOURCES * 2, REFERENCES * 2).result()
    for name in ("tokens", "ece", "nll", "brier", "accuracy"):
        assert saved["teacher_forced"]["before"][name] == pytest.approx(measured[name], rel=1e-5), name


def test_translation_states_the_recalibrated_confidence(calibrated: tuple[LoadedModel, dict], tiny_model: Path) -> None:
    loaded, saved = calibrated
    raw = list(Translator(loaded, recalibrate=False).translate(["ein Hund läuft", ""]))
    # a whole-distribution map: the forced pass must agree with temperature on the spot
    saved = {**saved, "inference": {**saved["inference"], "map": Temperature(2.0).to_json()}}
    save_recalibration(saved, tiny_model)
    record, blank = Translator(loaded).translate(["ein Hund läuft", ""])
    assert record["translation"] == raw[0]["translation"] and record["log_probs"] == raw[0]["log_probs"]
    assert record["token_confidence"] != raw[0]["token_confidence"]
    assert record["confidence"] == pytest.approx(np.mean(record["token_confidence"]), rel=1e-5)
    ids = loaded.tokenizer.encode_source(["ein Hund läuft"])
    pieces = {loaded.tokenizer.target_pieces([each])[0]: each for each in range(loaded.tokenizer.target_size)}
    output = [pieces[token] for token in record["tokens"]]
    (scored,) = score_pairs(loaded, ids, [output], transform=lambda values: (values / 2).log_softmax(-1))
    assert record["token_confidence"] == pytest.approx(np.exp(scored.log_probs).tolist(), rel=1e-5)
    assert blank["confidence"] == 1.0 and blank["token_confidence"] == []


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
    assert recalibrated["teacher_forced"]["tokens"] == results["calibration"]["teacher_forced"]["tokens"]
    assert recalibrated["teacher_forced"]["nll"] != results["calibration"]["teacher_forced"]["nll"]
    assert recalibrated["map"]["inference"] == saved["inference"]["picked"]


def test_maps_of_other_weights_are_refused(calibrated: tuple[LoadedModel, dict], tiny_model: Path) -> None:
    loaded, saved = calibrated
    (tiny_model / FILE).write_text(json.dumps({**saved, "version": 1, "weights": "0"}))
    with pytest.raises(UserError, match="other weights"):
        load_recalibration(loaded)
    (tiny_model / FILE).write_text(json.dumps({"version": 1, "weights": saved["weights"]}))
    with pytest.raises(UserError, match="not as expected"):
        load_recalibration(loaded)


WRONG_MAPS = [
    {"name": "temperature", "temperature": 0.0},
    {"name": "temperature", "temperature": float("nan")},
    {"name": "temperature", "temperature": -1.0},
    {"name": "temperature", "temperature": 1e300},
    {"name": "temperature", "temperature": "1"},
    {"name": "end_temperature", "temperature": 1.0, "end_temperature": 1.0, "end_id": -5},
    {"name": "end_temperature", "temperature": 1.0, "end_temperature": 1.0, "end_id": 9999},
    {"name": "temperature", "temperature": 1.0, "end_temperature": 1.0},
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
    {"thresholds": [{"confidence": 7.0}]},
    {"thresholds": [{}]},
    {"thresholds": None},
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
        path.write_text(json.dumps({**saved, "version": 1, **wrong}))
        with pytest.raises(UserError, match=FILE):
            raise AssertionError(f"{load_recalibration(loaded)} from {wrong}")


def test_too_few_sentences_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "few.de").write_text("ein Hund\n" * 9)
    few = str(tmp_path / "few.de")
    with pytest.raises(UserError, match="too few"):
        main([str(tiny_model), "--source", few, "--reference", few, "--threads", "1"])
    with pytest.raises(UserError, match="--precision"):
        main([str(tiny_model), "--source", few, "--reference", few, "--precision", "95"])


def test_the_command_prints_before_and_after_and_stores(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.de").write_text("".join(line + "\n" for line in SOURCES * 2))
    (tmp_path / "v.en").write_text("".join(line + "\n" for line in REFERENCES * 2))
    assert (
        main(
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
    assert "identity" in printed and "noise floor" in printed and "no confidence is such that" in printed
    assert load_recalibration(load_model(tiny_model, "cpu")) is not None
