"""Labels and confidences of single tokens, against numbers worked out by hand or by a plain loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mt.decoding.scoring import score_pairs
from mt.evaluation.tokens import (
    Output,
    SplitBins,
    encoded_pairs,
    inference,
    label,
    label_scores,
    label_words,
    teacher_forced,
)
from mt.metrics.bins import BORDERS, Breakdown
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


def test_groups_of_the_reference_as_prefix_are_counted_where_they_are_asked_for(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    sources, targets = ["ein Hund", "die Frau liest ein Buch 3 und 4"], ["a dog", "a dog dog dog"]
    assert "breakdown" not in teacher_forced(loaded, sources, targets).result()
    source_ids, target_ids, _ = encoded_pairs(loaded, sources, targets)
    frequency = Counter(token for ids in target_ids for token in ids)
    expected: dict[str, list[int]] = {name: [] for name in BORDERS}
    for source, target, scored in zip(source_ids, target_ids, score_pairs(loaded, source_ids, target_ids)):
        expected["frequency"] += [frequency[token] for token in scored.predicted.tolist()]
        expected["position"] += range(1, len(target) + 1)
        expected["source_length"] += [len(source)] * len(target)
    found = teacher_forced(loaded, sources, targets, breakdown=True).result()["breakdown"]
    for name, numbers in expected.items():
        groups = Breakdown(*BORDERS[name])
        groups.update(numbers, [0.5] * len(numbers), [True] * len(numbers))
        assert [(each["name"], each["tokens"]) for each in found[name]] == [
            (each["name"], each["tokens"]) for each in groups.result()
        ]


def test_groups_of_outputs_are_of_their_type_in_the_references_their_place_and_their_source() -> None:
    record = {"tokens": ["a", "b", "</s>"], "token_confidence": [0.9, 0.8, 0.7], "correct": [True, True, False]}
    without = {"tokens": ["b"], "correct": [True]}  # no confidence: it is left out, and what follows is not
    outputs = [
        Output(record | {"reference_tokens": ["a", "</s>"]}, source_length=6),
        Output(without),
        Output(record | {"reference_tokens": ["c", "</s>"]}, source_length=3),
    ]
    found = inference(outputs)
    assert found is not None
    sizes = {name: {each["name"]: each["tokens"] for each in groups} for name, groups in found["breakdown"].items()}
    assert sizes == {
        "frequency": {"0": 2, "1-9": 4},  # b stands in no reference
        "position": {"1": 2, "2": 2, "3-5": 2},
        "source_length": {"1-5": 3, "6-10": 3},
    }
    unknown = inference([Output(record)])  # neither the references' tokens nor the source's length
    assert unknown is not None and set(unknown["breakdown"]) == {"position", "source_length"}
    assert unknown["breakdown"]["source_length"] == []
    words = inference([Output(record | {"reference_tokens": ["a"]}, correct_words=[True] * 3)], level="word-product")
    assert words is not None and "frequency" not in words["breakdown"]


def test_outputs_that_end_at_once_are_measured() -> None:
    found = inference([Output({"tokens": ["</s>"], "token_confidence": [0.6], "correct": [True]})])
    assert found is not None and (found["tokens"], found["without_eos"]["tokens"]) == (1, 0)


def test_a_label_that_was_held_impossible_costs_as_much_as_a_probability_of_a_million_millionth() -> None:
    found = label_scores(np.array([1.0, 1.0 + 1e-6, 0.25]), np.array([False, True, False]))
    assert found["nll"] == pytest.approx([-np.log(1e-12), 0.0, -np.log(0.75)], abs=1e-12)
    assert found["nll"][1] == 0  # a float32 softmax may exceed 1: that gains nothing
    assert found["brier"] == pytest.approx([1.0, 0.0, 0.25**2], abs=1e-11)


def test_confidences_apart_by_more_than_rounding_are_two() -> None:
    for given, own in ((0.6, 0.5), (0.50002, 0.5), (0.500005, 0.500005)):
        output = Output({"tokens": ["a"], "log_probs": [np.log(0.5)], "token_confidence": [given]})
        assert output.confidence(recalibrated=False) == [pytest.approx(own, abs=1e-12)]
        assert output.confidence(recalibrated=True) == [given]
    assert Output({"log_probs": [1e-7], "token_confidence": [0.5]}).confidence(recalibrated=False) == [1.0]


def test_a_reference_that_ends_is_not_ended_twice() -> None:
    for reference in (["x"], ["x", "</s>"], ["</s>"], []):
        ended = [each for each in reference if each != "</s>"] + ["</s>"]
        record = {"tokens": [*ended, "</s>"], "reference_tokens": reference}
        label([Output(record)])
        assert record["correct"].count(True) == len(ended)  # the second end of the output is one too many
    record = {"tokens": ["</s>", "x"], "reference_tokens": ["</s>", "x"]}
    label([Output(record)])
    assert record["correct"] == [True, True]  # an end within the reference is none
