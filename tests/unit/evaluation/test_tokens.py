"""Labels and confidences of single tokens, against numbers worked out by hand or by a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mt.decoding.scoring import score_pairs
from mt.evaluation.tokens import (
    SplitBins,
    encoded_pairs,
    inference,
    label,
    label_scores,
    label_words,
    teacher_forced,
    token_confidence,
)
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
    records = [record, blank]
    label(records)
    assert record["correct"] == [True, False, True, True]
    assert "correct" not in blank
    result = inference(records)
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


def test_the_system_s_own_probabilities_count_unless_the_recalibrated_ones_are_asked_for() -> None:
    record = {"tokens": ["▁a", "</s>"], "log_probs": [np.log(0.5), np.log(0.25)], "correct": [True, False]}
    mapped = {**record, "token_confidence": [0.9, 0.3]}
    own, after = inference([mapped]), inference([mapped], recalibrated=True)
    assert own is not None and own["confidence"] == pytest.approx(0.375)
    assert after is not None and after["confidence"] == pytest.approx(0.6)
    assert token_confidence(mapped, recalibrated=True) != token_confidence(mapped, recalibrated=False)
    rounded = {**record, "token_confidence": [0.5000001, 0.25]}
    assert token_confidence(rounded, recalibrated=True) == token_confidence(rounded, recalibrated=False)


def test_pieces_are_grouped_by_their_number_in_the_training_text() -> None:
    counted = SplitBins("inference")
    counts = np.array([0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 10**7])
    confidence, right = np.full(11, 0.75), np.ones(11, dtype=bool)
    counted.update(confidence, right, ~right, nll=confidence, brier=confidence, line=0, counts=counts)
    found = counted.result()["breakdown"]["frequency"]
    names = ["0", "1-9", "10-99", "100-999", "1000-9999", "10000+"]
    assert [(group["name"], group["tokens"]) for group in found] == list(zip(names, [1, 2, 2, 2, 2, 2]))
    assert set(found[0]) == {"name", "tokens", "confidence", "accuracy", "ece", "noise_floor"}
    assert found[1]["ece"] == pytest.approx(0.25) and found[1]["accuracy"] == 1
    # a single sentence: the noise is that of independent tokens
    assert found[1]["noise_floor"] == pytest.approx((2 / np.pi * 2 * 0.75 * 0.25) ** 0.5 / 2, rel=1e-4)


def test_groups_of_the_reference_as_prefix_are_of_the_predicted_piece(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    sources, targets = ["ein Hund", "die Frau liest ein Buch 3 und 4"], ["a dog", "a dog dog dog"]
    assert "breakdown" not in teacher_forced(loaded, sources, targets).result()
    source_ids, target_ids, _ = encoded_pairs(loaded, sources, targets)
    predicted = np.concatenate([scored.predicted for scored in score_pairs(loaded, source_ids, target_ids)])
    counts = np.zeros(loaded.tokenizer.target_size, dtype=np.int64)
    counts[predicted[::2]] = 5
    found = teacher_forced(loaded, sources, targets, training_counts=counts).result()["breakdown"]["frequency"]
    seen = int((counts[predicted] > 0).sum())
    expected = {"0": len(predicted) - seen, "1-9": seen}
    assert {group["name"]: group["tokens"] for group in found} == {name: n for name, n in expected.items() if n}


def test_groups_of_outputs_are_those_of_their_pieces_where_the_training_text_is_known() -> None:
    record = {"tokens": ["a", "b", "</s>"], "token_confidence": [0.9, 0.8, 0.7], "correct": [True, True, False]}
    without = {"tokens": ["b"], "correct": [True]}  # no confidence: it is left out, and what follows is not
    found = inference([record, without, record], training_counts={"a": 3, "</s>": 50})
    assert found is not None and list(found["breakdown"]) == ["frequency"]
    sizes = {group["name"]: group["tokens"] for group in found["breakdown"]["frequency"]}
    assert sizes == {"0": 2, "1-9": 2, "10-99": 2}
    unknown = inference([record])
    assert unknown is not None and "breakdown" not in unknown


def test_the_sums_of_lines_make_the_figures_of_the_text(tiny_model: Path) -> None:
    loaded, sums = load_model(tiny_model, "cpu"), {}
    block = teacher_forced(loaded, SOURCES, TARGETS, sums=sums).result()
    assert sorted(sums) == [0, 2, 3]  # the second source is blank
    assert sum(each["tokens"] for each in sums.values()) == block["tokens"]
    assert sum(each["nll"] for each in sums.values()) / block["tokens"] == pytest.approx(block["nll"], rel=1e-5)
    error = np.abs(np.sum([each["gaps"] for each in sums.values()], axis=0)).sum() / block["tokens"]
    assert error == pytest.approx(block["ece"], abs=1e-6)


def test_tokens_of_a_line_are_drawn_together() -> None:
    tokens = {"tokens": ["a"] * 8, "token_confidence": [0.5] * 8}
    alike = [tokens | {"correct": [line % 2 == 0] * 8} for line in range(50)]
    mixed = [tokens | {"correct": [True, False] * 4} for _ in range(50)]
    floors = [block["noise_floor"] for block in map(inference, (alike, mixed)) if block is not None]
    assert floors[0] > 2.5 * floors[1]  # sqrt 8 times, by independent tokens' variance at the least


def test_outputs_that_end_at_once_are_measured() -> None:
    found = inference([{"tokens": ["</s>"], "token_confidence": [0.6], "correct": [True]}])
    assert found is not None and (found["tokens"], found["without_eos"]["tokens"]) == (1, 0)


def test_a_label_that_was_held_impossible_costs_as_much_as_a_probability_of_a_million_millionth() -> None:
    found = label_scores(np.array([1.0, 1.0 + 1e-6, 0.25]), np.array([False, True, False]))
    assert found["nll"] == pytest.approx([-np.log(1e-12), 0.0, -np.log(0.75)], abs=1e-12)
    assert found["nll"][1] == 0  # a float32 softmax may exceed 1: that gains nothing
    assert found["brier"] == pytest.approx([1.0, 0.0, 0.25**2], abs=1e-11)


def test_confidences_apart_by_more_than_rounding_are_two() -> None:
    for given, own in ((0.6, 0.5), (0.50002, 0.5), (0.500005, 0.500005)):
        record = {"tokens": ["a"], "log_probs": [np.log(0.5)], "token_confidence": [given]}
        assert token_confidence(record, recalibrated=False) == [pytest.approx(own, abs=1e-12)]
        assert token_confidence(record, recalibrated=True) == [given]
    assert token_confidence({"log_probs": [1e-7], "token_confidence": [0.5]}, recalibrated=False) == [1.0]


def test_a_reference_that_ends_is_not_ended_twice() -> None:
    for reference in (["x"], ["x", "</s>"], ["</s>"], []):
        ended = [each for each in reference if each != "</s>"] + ["</s>"]
        record = {"tokens": [*ended, "</s>"], "reference_tokens": reference}
        label([record])
        assert record["correct"].count(True) == len(ended)  # the second end of the output is one too many
    record = {"tokens": ["</s>", "x"], "reference_tokens": ["</s>", "x"]}
    label([record])
    assert record["correct"] == [True, True]  # an end within the reference is none
