"""Outcomes from records, against plain computations over all tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from mt.files.json_file import write_json
from mt.metrics.bins import expected_calibration_error
from mt.metrics.ranks import ConfidenceHistogram
from mt.model.directory import load_model
from tools.studies.cells import FORCED, INSPECTION, inspected, records_of
from tools.studies.measures import inspection_of, measure
from tools.studies.records import save

LINES = 40
OUTPUTS = [f"a man number {n} walks" if n % 3 else f"the woman {n} runs fast" for n in range(LINES)]
REFERENCES = [f"a man number {n} walks" if n % 2 else f"the woman {n} walks fast" for n in range(LINES)]


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    generator = np.random.default_rng(1)
    line = np.repeat(np.arange(LINES), generator.integers(3, 9, LINES)).astype(np.int32)
    confidence = generator.beta(3, 1, len(line)).astype(np.float32)
    right = (generator.random(len(line)) < confidence**1.3).astype(np.float32)
    unknown = generator.random(len(line)) < 0.1
    forced = {
        "line": line,
        "confidence": confidence,
        "right": right,
        "nll": generator.exponential(1.0, len(line)).astype(np.float32),
        "kl": np.where(unknown, np.nan, 0.3).astype(np.float32),
        "true_best": np.where(unknown, np.nan, 0.6).astype(np.float32),
        "words": np.full(LINES, 5, dtype=np.int16),
    }
    save(records_of(tmp_path, "test", FORCED), forced)
    metric = BLEU()
    output = {
        "line": line,
        "log_prob": np.log(confidence),
        "right": right,
        "bleu": np.array(metric._extract_corpus_statistics(OUTPUTS, [REFERENCES]), dtype=np.int32),
        "chrf": generator.uniform(0, 100, LINES).astype(np.float32),
        "true_log_prob": np.where(np.arange(LINES) % 4 == 0, -np.inf, -1.0).astype(np.float32),
    }
    save(records_of(tmp_path, "test", "main"), output)
    write_json(tmp_path / "cell.json", {"temperature": 0.9, "curve": [{"step": 5, "bleu": 12.0}]})
    return tmp_path


def value(cell: Path, outcome: str, weights: np.ndarray | None = None) -> float:
    return measure(cell, "test", "main", outcome).value(weights)


def forced(cell: Path) -> dict[str, np.ndarray]:
    with np.load(records_of(cell, "test", FORCED)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_means_and_errors_are_those_of_all_tokens(cell: Path) -> None:
    tokens = forced(cell)
    confidence, right = tokens["confidence"].astype(float), tokens["right"]
    assert value(cell, "nll") == pytest.approx(tokens["nll"].astype(float).mean())
    assert value(cell, "accuracy") == pytest.approx(right.mean())
    assert value(cell, "gap") == pytest.approx(confidence.mean() - right.mean())
    assert value(cell, "ece") == pytest.approx(expected_calibration_error(confidence, right))
    in_output = expected_calibration_error(np.exp(np.log(tokens["confidence"])), right, bins=20, edges="[l,r)")
    assert value(cell, "ece_output") == pytest.approx(in_output, abs=1e-6)


def test_tokens_without_a_truth_count_in_nothing_that_needs_one(cell: Path) -> None:
    tokens = forced(cell)
    known = ~np.isnan(tokens["true_best"])
    assert value(cell, "kl") == pytest.approx(0.3)
    bins = np.ceil(tokens["confidence"][known].astype(float) * 15)
    sums = [np.abs((0.6 - tokens["confidence"][known].astype(float))[bins == each].sum()) for each in np.unique(bins)]
    assert value(cell, "exact_ece") == pytest.approx(sum(sums) / known.sum(), abs=1e-6)


def test_rank_figures_are_those_of_the_fine_histogram(cell: Path) -> None:
    tokens = forced(cell)
    histogram = ConfidenceHistogram()
    histogram.update(tokens["confidence"].astype(float), tokens["right"].astype(float))
    figures = histogram.figures()
    assert value(cell, "auroc") == pytest.approx(figures["auroc"], abs=2e-3)
    assert value(cell, "augrc") == pytest.approx(figures["augrc"], abs=1e-3)


def test_bleu_is_sacrebleus(cell: Path) -> None:
    assert value(cell, "bleu") == pytest.approx(BLEU().corpus_score(OUTPUTS, [REFERENCES]).score)
    hypothesis_words = sum(len(each.split()) for each in OUTPUTS)
    assert value(cell, "length_ratio") == pytest.approx(
        hypothesis_words / sum(len(each.split()) for each in REFERENCES)
    )
    assert value(cell, "valid") == pytest.approx(0.75)


@pytest.mark.parametrize("outcome", ["nll", "ece", "auroc", "bleu", "chrf", "selection", "kl"])
def test_a_weight_is_as_good_as_so_many_copies_of_the_line(cell: Path, outcome: str) -> None:
    """Held against the same records with lines written twice, or left out."""
    weights = np.array([2.0, 0.0, 1.0, 1.0] * (LINES // 4))
    copies = np.repeat(np.arange(LINES), weights.astype(int))
    tokens = forced(cell)
    where = np.concatenate([np.flatnonzero(tokens["line"] == line) for line in copies])
    renumbered = np.concatenate([np.full((tokens["line"] == line).sum(), new) for new, line in enumerate(copies)])
    per_line = {name: tokens[name][copies] for name in ("words",)}
    of_tokens = {name: each[where] for name, each in tokens.items() if name not in ("words", "line")}
    other = cell / "other"
    other.mkdir()
    save(records_of(other, "test", FORCED), {**per_line, **of_tokens, "line": renumbered})
    with np.load(records_of(cell, "test", "main")) as arrays:
        output = {name: arrays[name] for name in arrays.files}
    of_lines = {name: output[name][copies] for name in ("bleu", "chrf", "true_log_prob")}
    of_output = {name: output[name][where] for name in ("log_prob", "right")}
    save(records_of(other, "test", "main"), {**of_lines, **of_output, "line": renumbered})
    expected = measure(other, "test", "main", outcome).value()
    # AUROC's cells are quantiles of the tokens there are: a little other ones
    assert value(cell, outcome, weights) == pytest.approx(expected, rel=1e-6, abs=5e-3 if outcome == "auroc" else 1e-9)


def test_figures_of_the_cell_need_no_text(cell: Path) -> None:
    assert value(cell, "temperature") == 0.9
    assert value(cell, "early_bleu") == 12.0


def test_an_unknown_outcome_is_told_with_those_there_are(cell: Path) -> None:
    with pytest.raises(ValueError, match="outcome is 'blue'; it must be one of"):
        value(cell, "blue")


def test_a_text_that_is_too_short_to_look_inside_is_known_as_such_later(tiny_model: Path, tmp_path: Path) -> None:
    write_json(tmp_path / INSPECTION, inspected(load_model(tiny_model, "cpu"), ["ein Hund"], ["a dog"]))
    assert inspection_of(tmp_path) == {}
