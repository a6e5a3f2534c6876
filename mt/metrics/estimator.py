"""Estimators of what a model's own probabilities do not tell: whether a token is right, and how good a line is.

Both are linear in a handful of inputs (mt.decoding.inputs), fitted on a development set, applied with numpy.
Linear on purpose: what they are asked about is other text than they were fitted on, where boosted trees, which rank a
little better, were half as far again from the truth (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mt.metrics.noise import Floats

MISSED = 0.1
"""share of lines whose quality lies outside of its interval"""
_PENALTY = 10.0  # on squared weights of scaled inputs
_PULL_BIAS, _PULL = 10.0, 300.0  # the same towards another fit's bias and weights: what texts differ in is mostly level
_LEAST, _MOST = 1e-3, 1 - 1e-4  # what a confidence is kept between
_Finite: TypeAlias = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Scale: TypeAlias = Annotated[float, Meta(gt=0, le=1e6)]


@dataclass(frozen=True)
class Linear:
    """A weighted sum of inputs, each less its mean and over its scale on the text that was fitted on."""

    inputs: tuple[str, ...]
    mean: tuple[_Finite, ...]
    scale: tuple[_Scale, ...]
    weights: tuple[_Finite, ...]
    bias: _Finite

    def __post_init__(self) -> None:
        if len({len(each) for each in (self.inputs, self.mean, self.scale, self.weights)}) > 1:
            raise ValueError("an estimator needs a mean, a scale and a weight for each input")

    def apply(self, values: Floats) -> Floats:
        """(n, inputs) -> (n,)."""
        return np.asarray(scaled(values, self.mean, self.scale) @ np.array(self.weights) + self.bias)

    def rescaled(self, mean: Floats, scale: Floats) -> Floats:
        """Bias and weights of the same sum with other means and scales."""
        weights = np.array(self.weights) / np.array(self.scale)
        return np.append(self.bias + weights @ (mean - np.array(self.mean)), weights * scale)


class Logistic(Linear):
    """The probability that a token is right: sigmoid of the sum."""

    @staticmethod
    def fit(
        inputs: Sequence[str], values: Floats, correct: NDArray[np.bool_], towards: Linear | None = None
    ) -> Logistic:
        """values (tokens, inputs), correct (tokens,). The weights of the highest posterior, by Newton's method: their
        prior is normal around 0 or, where a few tokens of another text are fitted to, around those of `towards`."""
        design, mean, scale, prior, precision = _problem(values, towards)
        weights = prior.copy()
        for _ in range(100):
            chance = _sigmoid(design @ weights)
            slope = design.T @ (correct - chance) - precision * (weights - prior)
            curvature = (design * (chance * (1 - chance))[:, None]).T @ design + np.diag(precision)
            step = np.linalg.solve(curvature, slope)
            weights += step / max(1.0, float(np.abs(step).max()))  # whole steps may overshoot without end
            if np.abs(step).max() < 1e-8:
                break
        return Logistic(tuple(inputs), mean, scale, tuple(weights[1:].tolist()), float(weights[0]))

    @staticmethod
    def identity(inputs: Sequence[str]) -> Logistic:
        """The token's own probability, as the first of the inputs, its log-odds, tells it."""
        others = len(inputs) - 1
        return Logistic(tuple(inputs), (0.0,) * len(inputs), (1.0,) * len(inputs), (1.0,) + (0.0,) * others, 0.0)

    def apply(self, values: Floats) -> Floats:
        """(tokens, inputs) -> (tokens,), in 0..1."""
        return _sigmoid(super().apply(values)).clip(_LEAST, _MOST)


@dataclass(frozen=True)
class Quality:
    """The sentence chrF to expect of a line, 0..100, and the interval that holds it for nine lines in ten.

    One sum tells what to expect, another how far off that usually is, and the interval is so many times that, as split
    conformal prediction finds it on lines that were not fitted on (Lei et al. 2018, section 5.2): exact on text of the
    same kind, whatever is wrong with the sums.
    """

    expected: Linear
    spread: Linear
    least_spread: _Scale
    low: _Finite
    """spreads from the expected quality to the ends of the interval"""
    high: _Finite

    @staticmethod
    def fit(
        inputs: Sequence[str], values: Floats, chrf: Floats, fitted: NDArray[np.bool_], towards: Quality | None = None
    ) -> Quality:
        """values (lines, inputs), chrf (lines,) in 0..100; `fitted` (lines,): which lines the sums are fitted on, the
        others make the interval. `towards`: another fit that the sums keep close to."""
        expected = _least_squares(inputs, values, chrf, fitted, None if towards is None else towards.expected)
        missed = chrf - expected.apply(values)
        spread = _least_squares(inputs, values, np.abs(missed), fitted, None if towards is None else towards.spread)
        least = max(0.25 * float(np.abs(missed[fitted]).mean()), 1e-3)
        low, high = _conformal((missed / spread.apply(values).clip(least))[~fitted])
        return Quality(expected, spread, least, low, high)

    def apply(self, values: Floats) -> Floats:
        """(lines, inputs) -> (lines, 3): expected chrF and the ends of its interval, 0..100."""
        expected, spread = self.expected.apply(values), self.spread.apply(values).clip(self.least_spread)
        return np.stack([expected, expected + self.low * spread, expected + self.high * spread], axis=1).clip(0, 100)

    def distances(self, mean: Floats) -> dict[str, float]:
        """How far the mean of each input over a text's lines, (inputs,), is from that of the text that was fitted on,
        in standard deviations of its lines."""
        apart = scaled(mean, self.expected.mean, self.expected.scale)
        return dict(zip(self.expected.inputs, apart.tolist()))


def clusters(values: Floats, count: int) -> NDArray[np.intp]:
    """Parts lines (lines, inputs) into so many groups of equal size that are unlike: by their place along the direction
    in which the scaled inputs differ most. (lines,), from 0."""
    alike = scaled(values, *_mean_and_scale(values))
    direction = np.linalg.svd(alike, full_matrices=False)[2][0]
    rank = np.argsort(np.argsort(alike @ direction, kind="stable"), kind="stable")
    return np.asarray(rank * count // len(values))


def scaled(values: Floats, mean: Sequence[float], scale: Sequence[float]) -> Floats:
    """Values (..., inputs) less their mean, over their scale."""
    return np.asarray((values - np.array(mean)) / np.array(scale))


def _problem(values: Floats, towards: Linear | None) -> tuple[Floats, Any, Any, Floats, Floats]:
    """The design (n, 1 + inputs), means and scales of the inputs, and prior and precision of bias and weights."""
    mean, scale = _mean_and_scale(values)
    design = np.column_stack([np.ones(len(values)), scaled(values, mean, scale)])
    precision = np.full(design.shape[1], _PENALTY if towards is None else _PULL)
    precision[0] = 1e-6 if towards is None else _PULL_BIAS
    prior = np.zeros(design.shape[1]) if towards is None else towards.rescaled(np.array(mean), np.array(scale))
    return design, mean, scale, prior, precision


def _least_squares(
    inputs: Sequence[str], values: Floats, target: Floats, fitted: NDArray[np.bool_], towards: Linear | None
) -> Linear:
    design, mean, scale, prior, precision = _problem(values, towards)
    design, missed = design[fitted], (target - design @ prior)[fitted]
    weights = prior + np.linalg.solve(design.T @ design + np.diag(precision), design.T @ missed)
    return Linear(tuple(inputs), mean, scale, tuple(weights[1:].tolist()), float(weights[0]))


def _conformal(ratio: Floats) -> tuple[float, float]:
    """The quantiles between which a further value lies with probability 1 - MISSED, MISSED / 2 on either side; the
    extremes where there are too few."""
    ordered, count = np.sort(ratio), len(ratio)
    beyond = int(MISSED / 2 * (count + 1))  # so many values lie at or beyond each end
    return float(ordered[max(beyond - 1, 0)]), float(ordered[min(count - beyond, count - 1)])


def _mean_and_scale(values: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each column; one that is the same everywhere has scale 1."""
    scale = values.std(0)
    return tuple(values.mean(0).tolist()), tuple(np.where(scale > 1e-6, scale, 1.0).tolist())


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values.clip(-50, 50))))
