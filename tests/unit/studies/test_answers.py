"""What the study draws and says beside its comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from tools.studies.answers import padding_curve
from tools.studies.figures import predicted_curve, study_figures
from tools.studies.page import table


def test_only_the_mean_over_real_tokens_does_not_depend_on_columns_of_padding() -> None:
    rows = padding_curve()
    real, every, zeroed = ([row[name] for row in rows] for name in ("real_rows", "all_rows", "zeroed_rows"))
    assert max(real) - min(real) < 1e-9
    assert np.all(np.diff(every) > 0.1)  # padding is predicted badly: the more of it, the higher the loss
    tokens, columns = sum(range(5, 13)), [12 + row["columns"] for row in rows]
    assert zeroed == pytest.approx([real[0] * tokens / (8 * each) for each in columns], abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "true", "model"),
    [
        ("ls:0|target:hard|kl", 0.7, 0.7),
        ("ls:0.1|target:uniform_nopad|kl", 0.7, 0.63),
        # el_bayes_binary of tests/oracle.json
        ("el|log_end:0|ls:0|target:hard|excluded:pad,bos", 0.7, 0.7706906326),
        ("el|log_end:0.25|ls:0|target:hard|excluded:pad,bos", 0.7, 0.7914806288),
        ("el|log_end:0.5|ls:0|target:hard|excluded:pad,bos", 0.7, 0.8400968444),
        # the optimum of the smoothed target 0.9 * (7 / 9) = 0.7
        ("el|log_end:0.5|ls:0.1|target:uniform_nopad|excluded:pad,bos", 7 / 9, 0.8400968444),
    ],
)
def test_the_drawn_optimum_is_that_of_the_loss(loss: str, true: float, model: float) -> None:
    curve = predicted_curve(loss)
    assert curve is not None
    assert np.interp(true, *curve) == pytest.approx(model, abs=1e-4)


def test_no_optimum_is_drawn_for_a_loss_that_none_is_known_of() -> None:
    assert predicted_curve("focal|gamma:2") is None


def results(indication: bool) -> dict[str, object]:
    comparison = {"first": "g/plain/ls", "second": "g/plain/ce", "outcome": "ece", "claim": "lower"}
    found = {"effect": -0.0123, "low": -0.02, "high": -0.004, "p": 0.01, "p_same": 1.0, "seeds": 3}
    found |= {"detectable": 0.01, "margin": 0.005, "p_adjusted": 0.02, "decision": "supported"}
    comparisons = [comparison | found, comparison | {"decision": "not run"}]
    questions = {"b": {"statement": "It | helps.", "verdict": "supported", "comparisons": comparisons}}
    empty = {
        "cells": [],
        "missing": ["g/plain/ce/seed-9"],
        "curves": {},
        "reliability": {},
        "padding": [],
        "inspection": {},
    }
    return {"title": "small", "indication": indication, "questions": questions, **empty}


def test_the_table_says_what_was_not_run_and_what_is_an_indication_only() -> None:
    text = table(results(indication=True))
    assert "| supported (indication only) |" in text
    assert "| It \\| helps. |" in text
    assert "indication" not in table(results(indication=False))
    assert "| -0.0123 | [-0.0200, -0.0040] | 0.020 | 3 | 0.0100 | supported |" in text
    assert "| – | – | – | 0 | – | not run |" in text
    assert "- g/plain/ce/seed-9" in text


def test_the_same_results_give_the_same_figures() -> None:
    assert study_figures(results(False)) == study_figures(results(False))
