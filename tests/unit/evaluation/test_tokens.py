"""Labels and confidences of single tokens, against numbers worked out by hand or by a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mt.evaluation.tokens import Output, SplitBins, inference, label, label_words, teacher_forced
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
    found = teacher_forced(loaded, SOURCES, TARGETS).result()
    assert found["tokens"] == len(correct)
    assert found["accuracy"] == pytest.approx(np.mean(correct))
    assert found["confidence"] == pytest.approx(np.mean(confidence), rel=1e-5)
    assert found["nll"] == pytest.approx(np.mean(nll), rel=1e-5)
    assert found["brier"] == pytest.approx(np.mean(brier), rel=1e-5)
    assert len(found["bins"]) == 15 and "(l,r]" in found["signature"]
    assert found["eos"]["tokens"] == sum(end)
    assert found["without_eos"]["tokens"] == len(end) - sum(end)


def test_parts_add_up_to_the_whole() -> None:
    counted = SplitBins("inference")
    figures = np.array([0.9, 0.7, 0.3])
    counted.update(
        figures, np.array([True, False, False]), np.array([False, False, True]), nll=figures, brier=figures, line=0
    )
    result = counted.result()
    assert (result["tokens"], result["without_eos"]["tokens"], result["eos"]["tokens"]) == (3, 2, 1)
    assert result["ece"] == pytest.approx((0.1 + 0.7 + 0.3) / 3)  # each token in a bin of its own
    assert result["without_eos"]["ece"] == pytest.approx((0.1 + 0.7) / 2)
    assert result["eos"]["ece"] == pytest.approx(0.3)
    assert "eos:only" in result["eos"]["signature"] and "eos:no" in result["without_eos"]["signature"]


def test_output_tokens_are_labelled_with_the_end_of_sentence_on_both_sides() -> None:
    record = {"tokens": ["▁a", "▁red", "▁dog", "</s>"], "token_confidence": [0.9, 0.2, 0.6, 0.99]}
    record["reference_tokens"] = ["▁a", "▁big", "▁dog"]
    blank = {"tokens": [], "token_confidence": [], "reference_tokens": ["▁x", "</s>"]}
    outputs = [Output(record), Output(blank)]
    label(outputs)
    assert record["correct"] == [True, False, True, True]
    assert "correct" not in blank
    result = inference(outputs)
    assert result is not None
    assert result["tokens"] == 4 and len(result["bins"]) == 20 and "[l,r)" in result["signature"]
    assert result["ece"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.01) / 4)
    # binary: the probability given to what turned out to be so
    assert result["nll"] == pytest.approx(-np.log([0.9, 0.8, 0.6, 0.99]).mean())
    assert result["brier"] == pytest.approx((0.1**2 + 0.2**2 + 0.4**2 + 0.01**2) / 4)
    assert result["eos"]["accuracy"] == 1.0


def test_a_certain_but_wrong_token_keeps_the_figures_finite() -> None:
    record = {"tokens": ["x"], "token_confidence": [1.0], "correct": [False]}
    result = inference([Output(record)])
    assert result is not None and np.isfinite(result["nll"])


def test_nothing_to_measure_without_probabilities() -> None:
    assert inference([Output({"tokens": ["a"], "correct": [True]}), Output({})]) is None


def test_a_token_is_as_right_as_its_word_where_the_references_tokens_are_unknown() -> None:
    record = {"tokens": ["▁a", "▁walk", "ing", "▁dog", "</s>"]}
    label_words([Output(record)], ["a running dog"])
    assert record["correct"] == [True, False, False, True, True]


def test_the_system_s_own_probabilities_count_unless_the_recalibrated_ones_are_asked_for() -> None:
    record = {"tokens": ["▁a", "</s>"], "log_probs": [np.log(0.5), np.log(0.25)], "correct": [True, False]}
    mapped = Output({**record, "token_confidence": [0.9, 0.3]})
    own, after = inference([mapped]), inference([mapped], recalibrated=True)
    assert own is not None and own["confidence"] == pytest.approx(0.375)
    assert after is not None and after["confidence"] == pytest.approx(0.6)
    assert mapped.confidence(recalibrated=True) != mapped.confidence(recalibrated=False)
    rounded = Output({**record, "token_confidence": [0.5000001, 0.25]})
    assert rounded.confidence(recalibrated=True) == rounded.confidence(recalibrated=False)


def test_words_are_measured_by_the_product_of_their_tokens() -> None:
    record = {"tokens": ["▁walk", "ing", "▁dog", "</s>"], "token_confidence": [0.5, 0.5, 0.7, 1.0]}
    outputs = [Output(record, source_length=3)]
    label_words(outputs, ["walking cat"])
    found = inference(outputs, level="word-product")
    assert found is not None and (found["tokens"], found["accuracy"]) == (3, pytest.approx(2 / 3))
    assert found["ece"] == pytest.approx((0.75 + 0.7 + 0) / 3) and "level:word-product" in found["signature"]
    assert [group["name"] for group in found["breakdown"]["source_length"]] == ["1-5"]
    assert "frequency" not in found["breakdown"]
