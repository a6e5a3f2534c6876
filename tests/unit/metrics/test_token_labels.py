"""Token labels: by hand, and edits against sacreBLEU's TER."""

from __future__ import annotations

import gzip
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import lib_ter
from sacrebleu.metrics.lib_ter import translation_edit_rate

from mt.metrics import labels as labels_module
from mt.metrics.labels import align, token_labels


@pytest.mark.parametrize(
    ("hypothesis", "reference", "edits", "labels"),
    [
        ("a b c", "a b c", 0, "CCC"),
        ("a x c", "a b c", 1, "CSC"),
        ("a x b c", "a b c", 1, "CICC"),
        ("a c d", "a b c d", 1, "CDC"),  # c stands behind the gap where b is missing
        ("b c", "a b c", 1, "DC"),
        ("a b", "a b c", 1, "CC"),  # nothing follows the gap
        ("a b </s>", "a b c </s>", 1, "CCD"),  # the end comes too early
        ("c d a b", "a b c d", 1, "CCCC"),  # one block shifted
        ("d a b c", "a b c d", 1, "CCCC"),
        ("b a x", "a b c", 2, "CCS"),  # shifted, and one substituted
        ("x y z", "a b c", 3, "SSS"),
        ("", "a b", 2, ""),
        ("a b", "", 2, "II"),
        ("", "", 0, ""),
    ],
)
def test_labels_by_hand(hypothesis: str, reference: str, edits: int, labels: str) -> None:
    total, found = align(hypothesis.split(), reference.split())
    assert (total, "".join(found)) == (edits, labels)
    assert token_labels(hypothesis.split(), reference.split()) == [label == "C" for label in labels]


def test_labels_follow_their_tokens_through_a_shift() -> None:
    # a goes to the front, then x stands in d's place
    assert align(list("bcxa"), list("abcd")) == (2, ["C", "C", "S", "C"])
    # c d goes to the end; q is missing before b, wherever b stands
    assert align(list("acdb"), list("aqbcd")) == (2, ["C", "C", "C", "D"])


WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=14)


@settings(max_examples=300, deadline=None)
@given(WORDS, WORDS)
def test_edits_are_those_of_sacrebleu(hypothesis: list[str], reference: list[str]) -> None:
    edits, labels = align(hypothesis, reference)
    assert edits == translation_edit_rate(hypothesis, reference)[0]
    assert len(labels) == len(hypothesis)


@settings(max_examples=200, deadline=None)
@given(WORDS.filter(bool), WORDS.filter(bool))
def test_of_equal_alignments_the_one_that_replaces_before_it_inserts_and_inserts_before_it_leaves_out(
    hypothesis: list[str], reference: list[str]
) -> None:
    distance = {(i, 0): i for i in range(len(hypothesis) + 1)} | {(0, j): j for j in range(len(reference) + 1)}
    for i, token in enumerate(hypothesis, start=1):
        for j, other in enumerate(reference, start=1):
            replaced = distance[i - 1, j - 1] + (token != other)
            distance[i, j] = min(replaced, distance[i - 1, j] + 1, distance[i, j - 1] + 1)
    labels, positions, wrong = list(hypothesis), [0] * len(reference), [True] * len(reference)
    i, j = len(hypothesis), len(reference)
    while i or j:
        same = i > 0 and j > 0 and hypothesis[i - 1] == reference[j - 1]
        if i and j and distance[i, j] == distance[i - 1, j - 1] + (not same):
            positions[j - 1], wrong[j - 1] = i - 1, not same
            labels[i - 1] = "C" if same else "S"
            i, j = i - 1, j - 1
        elif i and distance[i, j] == distance[i - 1, j] + 1:
            labels[i - 1] = "I"
            i -= 1
        else:
            positions[j - 1] = i - 1
            if labels[i : i + 1] == ["C"]:
                labels[i] = "D"  # right by itself, and directly behind what is left out
            j -= 1
    found = labels_module._edit_alignment(hypothesis, reference)
    assert found.distance == distance[len(hypothesis), len(reference)]
    assert (found.positions, found.reference_wrong, found.labels) == (positions, wrong, labels)


def corrupted(words: list[str], generator: random.Random) -> list[str]:
    """Words with a few deletions, insertions, substitutions and moved blocks."""
    words = list(words)
    for _ in range(generator.randint(1, 6)):
        place, kind = generator.randrange(len(words) + 1), generator.random()
        if kind < 0.25 and len(words) > 2:
            words.pop(place % len(words))
        elif kind < 0.5:
            words.insert(place, generator.choice(words))
        elif kind < 0.65:
            words[place % len(words)] = "other"
        else:
            start, length = generator.randrange(len(words)), generator.randint(1, 5)
            block = words[start : start + length]
            del words[start : start + length]
            target = generator.randint(0, len(words))
            words[target:target] = block
    return words


@pytest.mark.parametrize(("length", "vocabulary", "count"), [(20, 40, 150), (45, 60, 12), (90, 400, 3)])
def test_edits_of_long_sentences_are_those_of_sacrebleu(length: int, vocabulary: int, count: int) -> None:
    generator = random.Random(length)
    for _ in range(count):
        reference = [f"w{generator.randrange(vocabulary)}" for _ in range(length)]
        hypothesis = corrupted(reference, generator)
        assert align(hypothesis, reference)[0] == translation_edit_rate(hypothesis, reference)[0]


def test_the_beam_of_sacrebleu_is_kept_where_lengths_differ_much() -> None:
    generator = random.Random(5)
    for hypothesis_length, reference_length in ((70, 20), (20, 70), (2, 120), (120, 2)):
        hypothesis = [f"w{generator.randrange(200)}" for _ in range(hypothesis_length)]
        reference = [f"w{generator.randrange(200)}" for _ in range(reference_length)]
        assert align(hypothesis, reference)[0] == translation_edit_rate(hypothesis, reference)[0]


LIMITS = {
    "_MAX_SHIFT_SIZE": "_MAX_SHIFT_SIZE",
    "_MAX_SHIFT_DISTANCE": "_MAX_SHIFT_DIST",
    "_MAX_CANDIDATES": "_MAX_SHIFT_CANDIDATES",
    "_BEAM": "_BEAM_WIDTH",
}
"""the limits of the search here, and in sacreBLEU"""


def test_the_limits_of_the_search_are_those_of_sacrebleu() -> None:
    for ours, theirs in LIMITS.items():
        assert getattr(labels_module, ours) == getattr(lib_ter, theirs)


@pytest.mark.parametrize("seed", range(6))
def test_edits_are_those_of_sacrebleu_where_limits_are_reached(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits so narrow that short sentences reach each of them, the candidates' in the middle of a block, too."""
    generator = random.Random(seed)
    for _ in range(120):
        for name, (low, high) in zip(LIMITS, ((1, 4), (0, 6), (1, 30), (2, 6))):
            value = generator.randint(low, high)
            monkeypatch.setattr(labels_module, name, value)
            monkeypatch.setattr(lib_ter, LIMITS[name], value)
        length = generator.randint(1, 16)
        reference = generator.choices("abcdefghijklmnop"[: generator.randint(2, 16)], k=length)
        hypothesis = corrupted(reference, generator)
        if generator.random() < 0.2:  # lengths that differ much: there the beam is wider
            hypothesis = hypothesis[: generator.randint(1, 3)]
        assert align(hypothesis, reference)[0] == translation_edit_rate(hypothesis, reference)[0]


def test_two_hundred_sentences_take_less_than_a_second() -> None:
    generator = random.Random(2)
    references = [[f"w{generator.randrange(60)}" for _ in range(20)] for _ in range(200)]
    pairs = [(corrupted(reference, generator), reference) for reference in references]
    start = time.process_time()
    for hypothesis, reference in pairs:
        token_labels(hypothesis, reference)
    assert time.process_time() - start < 1


@pytest.mark.slow
def test_edits_of_ten_thousand_captions_are_those_of_sacrebleu() -> None:
    default = Path(__file__).resolve().parents[3].parent / "shared" / "corpora"
    path = Path(os.environ.get("MT_CORPORA", default)) / "multi30k" / "train.en.gz"
    if not path.exists():
        pytest.skip(f"{path} is not there; say where the corpora are with MT_CORPORA")
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        captions = [line.split() for line in file]
    generator = random.Random(7)
    broken = [(corrupted(each, generator), each) for each in captions[:5000]]
    # captions of much the same scenes, side by side
    ordered = sorted(captions)
    alike = [(ordered[index], ordered[index + 1]) for index in range(0, 20_000, 4)]
    pairs = broken + alike
    assert len(pairs) == 10_000
    total = 0
    for hypothesis, reference in pairs:
        edits, labels = align(hypothesis, reference)
        assert edits == translation_edit_rate(hypothesis, reference)[0], (hypothesis, reference)
        assert len(labels) == len(hypothesis)
        total += edits
    assert total > 20_000
