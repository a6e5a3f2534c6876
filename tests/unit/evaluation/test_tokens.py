"""Labels and confidences of single tokens, against numbers worked out by hand or by a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mt.evaluation.tokens import SplitBins, inference, label, label_words, teacher_forced
from mt.model.directory import load_model

SOURCES = ["ein Hund läuft", "", "die Frau liest ein Buch 3", "der Mann"]
TARGETS = ["a dog runs", "a cat", "the woman reads a book 3", ""]


def test_teacher_forced_figures_equal_a_plain_loop_over_positions(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    tokenizer, model = loaded.tokenizer, loaded.model
    confidence, correct, nll, brier, end = [], [], [], [], []
    for source, target in zip(SOURCES, TARGETS):
        if not source:
            continue
        ids = tokenizer.encode_target([target])[0]
        with torch.no_grad():
            memory = model.encode(torch.tensor(tokenizer.encode_source([source])))
            hidden = model.decode(torch.tensor([[tokenizer.begin_id, *ids[:-1]]]), memory)
            probabilities = model.logits(hidden)[0].double().softmax(-1).numpy()
        for row, gold in zip(probabilities, ids):
            confidence.append(row.max())
            correct.append(row.argmax() == gold)
            end.append(row.argmax() == tokenizer.end_id)
            nll.append(-np.log(row[gold]))
            brier.append(((row - np.eye(len(row))[gold]) ** 2).sum() / 2)
    found = teacher_forced(loaded, SOURCES, TARGETS)
    assert found["tokens"] == len(correct)
    assert found["accuracy"] == pytest.approx(np.mean(correct))
    assert found["confidence"] == pytest.approx(np.mean(confidence), rel=1e-5)
    assert found["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert found["brier"] == pytest.approx(np.mean(brier), rel=1e-5)
    assert len(found["bins"]) == 15 and "(l,r]" in found["signature"]
    assert found["eos"]["tokens"] == sum(end)
    assert found["without_eos"]["tokens"] == len(end) - sum(end)


def test_parts_add_up_to_the_whole() -> None:
    counted = SplitBins(bins=20, edges="[l,r)", split="inference")
    figures = np.array([0.9, 0.7, 0.3])
    counted.update(figures, np.array([True, False, False]), np.array([False, False, True]), nll=figures, brier=figures)
    result = counted.result()
    assert (result["tokens"], result["without_eos"]["tokens"], result["eos"]["tokens"]) == (3, 2, 1)
    assert result["ece"] == pytest.approx((0.1 + 0.7 + 0.3) / 3)  # each token in a bin of its own
    assert result["without_eos"]["ece"] == pytest.approx((0.1 + 0.7) / 2)
    assert result["eos"]["ece"] == pytest.approx(0.3)
    assert "eos:only" in result["eos"]["signature"] and "eos:no" in result["without_eos"]["signature"]


def test_output_tokens_are_labelled_with_the_end_of_sentence_on_both_sides() -> None:
    record = {"tokens": ["▁a", "▁red", "▁dog", "</s>"], "token_confidence": [0.9, 0.2, 0.6, 0.99]}
    blank = {"tokens": [], "token_confidence": []}
    label([record, blank], [["▁a", "▁big", "▁dog"], ["▁x", "</s>"]])
    assert record["correct"] == [True, False, True, True]
    assert "correct" not in blank
    result = inference([record, blank])
    assert result is not None
    assert result["tokens"] == 4 and len(result["bins"]) == 20 and "[l,r)" in result["signature"]
    assert result["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.01) / 4)
    # binary: the probability given to what turned out to be so
    assert result["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.99]).mean())
    assert result["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.4**2 + 0.01**2) / 4)
    assert result["eos"]["accuracy"] == 1.0


def test_a_certain_but_wrong_token_keeps_the_figures_finite() -> None:
    record = {"tokens": ["x"], "token_confidence": [1.0], "correct": [False]}
    result = inference([record])
    assert result is not None and np.isfinite(result["nll"])


def test_nothing_to_measure_without_probabilities() -> None:
    assert inference([{"tokens": ["a"], "correct": [True]}, {}]) is None


def test_a_token_is_as_right_as_its_word_where_the_references_tokens_are_unknown() -> None:
    record = {"tokens": ["▁a", "▁walk", "ing", "▁dog", "</s>"]}
    label_words([record], ["a running dog"])
    assert record["correct"] == [True, False, False, True, True]
