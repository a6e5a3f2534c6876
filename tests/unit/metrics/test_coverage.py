"""Intervals and floors of the calibration error in worlds whose truth is known: how often they are right, counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from mt.grammar.grammar import Grammar, sample_pairs
from mt.grammar.oracle import OracleDistribution
from mt.metrics.bins import CalibrationBins, bin_of
from mt.metrics.noise import paired_bootstrap

SENTENCES, DRAWS, ERRORS = 1000, 300, (0.0, 0.003, 0.007, 0.014, 0.034, 0.096)
SHARED = 0.2
"""of what decides whether a token is right, the share that all tokens of its sentence have in common"""
NORMAL = np.linspace(-8, 8, 8001)
CUMULATIVE = np.array([(1 + math.erf(value / math.sqrt(2))) / 2 for value in NORMAL])

Fault = Callable[[np.ndarray, float], np.ndarray]
"""the true probabilities of being right, from confidences and the size of the fault"""


def logit(confidence: np.ndarray) -> np.ndarray:
    return np.log(confidence) - np.log1p(-confidence)


def logistic(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


FAULTS: dict[str, Fault] = {
    "over-confident everywhere": lambda confidence, size: logistic(logit(confidence) - size),
    "too sharp": lambda confidence, size: logistic(logit(confidence) / (1 + size)),
    "over-confident in the last bin": lambda confidence, size: np.clip(
        confidence - size * (confidence > 14 / 15), 0, 1
    ),
}


def drawn_confidences(generator: np.random.Generator, sentences: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the sentence and confidence of each token, about 15 a sentence, sure and unsure sentences."""
    line = np.repeat(np.arange(sentences), 1 + generator.poisson(14, sentences))
    return line, logistic(generator.normal(1.8, 2.0, len(line)) + 0.5 * generator.normal(size=sentences)[line])


def drawn_labels(generator: np.random.Generator, line: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Right or wrong, each with its probability; tokens of a sentence tend to be alike."""
    common = generator.normal(size=line[-1] + 1)[line]
    own = generator.normal(size=len(line))
    threshold = np.interp(math.sqrt(SHARED) * common + math.sqrt(1 - SHARED) * own, NORMAL, CUMULATIVE)
    return threshold < probability


def true_error(confidence: np.ndarray, probability: np.ndarray) -> float:
    """Sum over 15 bins of |expected gap|, per token."""
    gap = np.bincount(bin_of(confidence, 15, "(l,r]"), weights=probability - confidence, minlength=15)
    return float(np.abs(gap).sum() / len(confidence))


@lru_cache
def size_of_fault(name: str, error: float) -> float:
    """The size with this true error, by bisection on a large sample."""
    confidence = drawn_confidences(np.random.default_rng(99), 60_000)[1]
    low, high = 0.0, 4.0 if error else 0.0
    for _ in range(30):
        middle = (low + high) / 2
        below = true_error(confidence, FAULTS[name](confidence, middle)) < error
        low, high = (middle, high) if below else (low, middle)
    return low


def covered(draw: Callable[[np.random.Generator], CalibrationBins], truth: float, draws: int, what: str) -> int:
    """In how many draws the interval holds the truth; prints that, and more."""
    held = below = above = within = 0
    errors, floors = [], []
    for seed in range(draws):
        block = draw(np.random.default_rng(seed)).block()
        below += block["ece_low"] > truth + 1e-9
        above += block["ece_high"] < truth - 1e-9
        held += block["ece_low"] - 1e-9 <= truth <= block["ece_high"] + 1e-9
        within += block["ece"] <= block["noise_floor_high"]
        errors.append(block["ece"])
        floors.append(block["noise_floor"])
    print(
        f"{what}, true error {truth:.4f}: {held} of {draws} intervals hold it, {below} lie above, {above} below; "
        f"measured {np.mean(errors):.4f}, floor {np.mean(floors):.4f}, within its 95 % quantile in {within}"
    )
    if truth == 0:
        assert within / draws >= 0.92 and np.mean(floors) == pytest.approx(np.mean(errors), rel=0.06)
    return held


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("error", ERRORS)
def test_intervals_hold_the_true_error_nine_times_in_ten(fault: str, error: float) -> None:
    size = size_of_fault(fault, error)

    def draw(generator: np.random.Generator) -> CalibrationBins:
        counted = CalibrationBins()
        line, confidence = drawn_confidences(generator, SENTENCES)
        counted.update(confidence, drawn_labels(generator, line, FAULTS[fault](confidence, size)), lines=line)
        return counted

    assert covered(draw, error, DRAWS, fault) >= 0.9 * DRAWS


@lru_cache
def grammar_text() -> list[OracleDistribution]:
    """The true distributions of the translations of 300 sources of the shipped grammar, over words."""
    languages, ids = ("de", "en"), {"</s>": 0}
    grammar, found = Grammar.load(*languages), []
    for source, _ in sample_pairs(languages, 300, 5, split="test"):
        translations = grammar.translations(source)
        words = ([ids.setdefault(word, len(ids)) for word in text.split()] + [0] for text in translations)
        found.append(OracleDistribution(words, translations.values()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "leak"), [(1.0, 0.0), (1.5, 0.0), (0.6, 0.0), (1.0, 0.05), (0.6, 0.02)])
def test_intervals_hold_the_true_error_of_a_model_of_the_grammar(temperature: float, leak: float) -> None:
    # The model gives the true probabilities, tempered, and `leak` of all probability to words that never come.
    sentences = []
    gaps, tokens = np.zeros(15), 0.0
    for truth in grammar_text():
        probabilities, figures = list(truth.sequences.values()), []
        for ids, probability in truth.sequences.items():
            confidence, correct = [], []
            for place, token in enumerate(ids):
                following, true = truth.next(ids[:place])
                tempered = true ** (1 / temperature)
                confidence.append(min(1.0, (1 - leak) * float(tempered.max() / tempered.sum())))
                correct.append(token == following[tempered.argmax()])
            figures.append((np.array(confidence), np.array(correct)))
            gap = np.array(correct) - np.array(confidence)
            gaps += probability * np.bincount(bin_of(np.array(confidence), 15, "(l,r]"), weights=gap, minlength=15)
            tokens += probability * len(ids)
        sentences.append((np.array(probabilities) / sum(probabilities), figures))

    def draw(generator: np.random.Generator) -> CalibrationBins:
        counted = CalibrationBins()
        drawn = [figures[generator.choice(len(figures), p=each)] for each, figures in sentences]
        confidence, correct = (np.concatenate(side) for side in zip(*drawn))
        counted.update(confidence, correct, lines=np.repeat(np.arange(len(drawn)), [len(each) for each, _ in drawn]))
        return counted

    error = float(np.abs(gaps).sum() / tokens)
    assert covered(draw, 0.0 if error < 1e-9 else error, 200, f"temperature {temperature}, leak {leak}") >= 180


@pytest.mark.slow
@pytest.mark.parametrize("error", [0.0, 0.014, 0.034])
def test_two_systems_of_equal_error_are_rarely_told_apart(error: float) -> None:
    size, fault = size_of_fault("too sharp", error), FAULTS["too sharp"]

    def rows(generator: np.random.Generator, line: np.ndarray, confidence: np.ndarray) -> np.ndarray:
        right = drawn_labels(generator, line, fault(confidence, size))
        cell = line * 15 + bin_of(confidence, 15, "(l,r]")
        gaps = np.bincount(cell, weights=right - confidence, minlength=15 * SENTENCES).reshape(SENTENCES, 15)
        return np.column_stack([np.bincount(line), gaps])

    told = 0
    for seed in range(DRAWS):
        generator = np.random.default_rng(seed)
        line, confidence = drawn_confidences(generator, SENTENCES)
        systems = [rows(generator, line, confidence) for _ in range(2)]
        found = paired_bootstrap(
            systems, lambda sums: float(np.abs(sums[1:]).sum() / sums[0]), resamples=200, seed=seed, biased=True
        )
        told += found[0]["p"] < 0.05
    print(f"two systems of true error {error}: told apart in {told} of {DRAWS} draws")
    assert told <= 0.08 * DRAWS
