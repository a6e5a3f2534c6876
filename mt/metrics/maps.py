"""Recalibration: maps from a model's probabilities to truer ones, fitted on a development set or known beforehand.

`Temperature` and `InverseLink` act on whole distributions, `Isotonic` on the confidences of single tokens. All are
frozen and go through JSON (`to_json`, `map_from_json`). Distributions are streamed in batches: a fit keeps sums at
a few temperatures, not tokens, and sums of parts add up, so that cross-validation takes one pass.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import msgspec
import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from mt.config import LossConfig
from mt.losses.targets import (
    SmoothedTarget,
    encouraging_inverse_link,
    focal_inverse_link,
    penalty_inverse_link,
    smoothing_inverse_link,
)
from mt.metrics.bins import as_floats, checked
from mt.metrics.noise import Floats
from mt.metrics.ranks import pool_adjacent_violators
from mt.progress import log_line

LEAST_SHARE = 0.01
"""a class that the inverse link would give nothing keeps this share of what the model gave it"""
_GRID: Floats = 2.0 ** np.arange(-4.0, 5.0)  # 1 / temperature of a fit: temperatures from 16 to 1/16
_SMALLEST = 1e-12
_CACHED = 1 << 17  # scores worked on at a time: they stay in the processor's cache
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Degree: TypeAlias = Annotated[float, Meta(ge=0.01, le=100)]


@dataclass(frozen=True)
class InverseLink:
    """The true probabilities behind those of a perfectly trained model, from its loss; nothing is fitted.

    The loss' curve is undone first (log_end: Encouraging Loss; gamma, scale: focal losses; beta: confidence penalty),
    then label smoothing (reference: sections 2.6 and 1.3 there; see mt.losses.targets). A real model gives some classes
    less than smoothing or penalty taught it, where the inverse is 0: they keep LEAST_SHARE of their probability, so
    that no target is impossible. unigram: frequencies of the classes, for the definition of that name.
    """

    smoothing: Annotated[float, Meta(ge=0, lt=1)]
    definition: Literal["uniform", "others", "uniform_nopad", "others_nopad", "scatter", "unigram"]
    vocabulary_size: int
    pad_id: int
    excluded_ids: tuple[int, ...] = ()
    log_end: Annotated[float, Meta(ge=0, lt=1)] | None = None
    gamma: Annotated[float, Meta(ge=0, le=10)] | None = None
    scale: Annotated[float, Meta(ge=-1, le=100)] = -1.0
    beta: Annotated[float, Meta(ge=0, le=100)] | None = None
    unigram: tuple[_Share, ...] | None = None

    name: ClassVar[str] = "link"

    def __post_init__(self) -> None:
        if not all(0 <= each < self.vocabulary_size for each in (self.pad_id, *self.excluded_ids)):
            raise ValueError("ids lie outside the vocabulary")
        _ = self._target  # raises ValueError where its values do not belong together

    @staticmethod
    def of_loss(
        loss: LossConfig, vocabulary_size: int, pad_id: int, begin_id: int, unigram: Any = None
    ) -> InverseLink | None:
        """The inverse link of a training loss; classes are those of the target's tokeniser. `unigram`: (vocabulary,)
        counts of the training text, which targets of that definition need. None without them, for a bonus that is
        smoothed otherwise, and where the loss of a token is not convex in its probability, so that a truth may have
        several optima or none (log_end above 1/2, inverse focal losses of a large scale or gamma)."""
        settings = loss.settings()
        smoothing = settings.get("smoothing", 0.0)
        definition: Any = settings["definition"] if smoothing else "uniform"
        if settings.get("bonus_smoothing") not in (None, smoothing) or (definition == "unigram" and unigram is None):
            return None
        log_end, gamma, scale = settings.get("log_end"), settings.get("gamma"), settings.get("scale", -1.0)
        # a loss is convex where its link's weights rise with p
        rising = focal_inverse_link(torch.linspace(1e-3, 1, 1000).double(), gamma or 0.0, scale).diff() >= 0
        if (log_end or 0) > 0.5 or not rising.all():
            return None
        excluded = (pad_id, begin_id) if settings.get("exclude_special") else ()
        shape = log_end, gamma, scale, settings.get("beta")
        counts = as_floats(unigram) if definition == "unigram" else None
        frequencies = None if counts is None else tuple((counts / counts.sum()).tolist())
        return InverseLink(smoothing, definition, vocabulary_size, pad_id, excluded, *shape, frequencies)

    @cached_property
    def _target(self) -> SmoothedTarget:
        unigram = None if self.unigram is None else torch.tensor(self.unigram, dtype=torch.float64)
        make = partial(SmoothedTarget, self.definition, self.smoothing, unigram=unigram)
        return make(pad_id=self.pad_id, vocabulary_size=self.vocabulary_size, excluded_ids=self.excluded_ids)

    def apply(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities or logits (n, vocabulary) -> log-probabilities (n, vocabulary), finite as they are."""
        true = torch.softmax(_wide(log_probs), -1)
        if self.log_end is not None:
            true = encouraging_inverse_link(true, self.log_end)
        if self.gamma is not None:
            true = focal_inverse_link(true, self.gamma, self.scale)
        if self.beta is not None:
            true = torch.maximum(penalty_inverse_link(true, self.beta), LEAST_SHARE * true)
        if self.smoothing:
            true = torch.maximum(smoothing_inverse_link(true, self._target), LEAST_SHARE * true)
        return true.clamp(min=torch.finfo(true.dtype).tiny).log().log_softmax(-1)  # 0 has no finite logarithm

    def to_json(self) -> dict[str, Any]:
        """For map_from_json."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return {"name": self.name, **given, "excluded_ids": list(self.excluded_ids)}


@dataclass(frozen=True)
class Temperature:
    """softmax(z / T), above 1 softer (Guo et al. 2017), perhaps behind the inverse link of the training loss. The
    likeliest class stays the same, and with temperature 1 everything does."""

    temperature: _Degree = 1.0
    link: InverseLink | None = None

    @property
    def name(self) -> str:
        """temperature or link_temperature."""
        return "link_temperature" if self.link else "temperature"

    def apply(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities or logits (n, vocabulary) -> log-probabilities (n, vocabulary), float32 or float64."""
        values = _wide(log_probs) if self.link is None else self.link.apply(log_probs)
        return (values / self.temperature).log_softmax(-1)

    def to_json(self) -> dict[str, Any]:
        """For map_from_json."""
        link = {"link": self.link.to_json()} if self.link else {}
        return {"name": self.name, "temperature": self.temperature, **link}


@dataclass
class TemperatureFit:
    """The temperature that minimises the negative log-likelihood, as a stream; the `sums` of parts may be added.

    One pass, constant memory: likelihood, slope and curvature are summed at a few temperatures; the best one between
    them is read off the quintic through both neighbours, exact to about 1e-3. What lies beyond 1/16 to 16 becomes the
    nearer end, and is told (all tokens right, for one: the sharper the better). `link` is as in Temperature.
    """

    link: InverseLink | None = None
    sums: Floats = field(default_factory=lambda: np.zeros((len(_GRID), 3)))
    """at each 1 / temperature"""

    def update(self, log_probs: Tensor, tokens: Tensor, correct: Any = None) -> None:
        """Counts tokens: log_probs (n, vocabulary); tokens (n,) int64, the targets or, with `correct`, the tokens put
        out; correct (n,), whether each is right: then the likelihood is that of these labels."""
        values = _wide(log_probs.detach()) if self.link is None else self.link.apply(log_probs.detach())
        right = torch.as_tensor(np.ones(len(tokens)) if correct is None else as_floats(correct), device=tokens.device)
        rows = max(1, _CACHED // values.shape[1])
        for some in zip(values.split(rows), tokens.split(rows), right.split(rows)):
            self.sums += _likelihoods(*some, _GRID)

    def map(self) -> Temperature:
        """The best temperature; 1 without tokens."""
        return Temperature(_best_temperature(self.sums), self.link)


@dataclass(frozen=True)
class Isotonic:
    """A rising step function of confidence, the least-squares fit to right-or-wrong labels (pool adjacent violators).

    confidence: where each step begins, rising; value: its height. Right-continuous; below the first step its height.
    """

    confidence: tuple[_Share, ...]
    value: tuple[_Share, ...]

    name: ClassVar[str] = "isotonic"

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.confidence))
        paired = len(self.confidence) == len(self.value) > 0
        if not (paired and rising and sorted(self.value) == [*self.value]):
            raise ValueError("the steps of an isotonic map must rise, a value for each confidence")

    @staticmethod
    def fit(confidence: Any, correct: Any) -> Isotonic:
        """confidence (n,) in 0..1 and correct (n,), n at least 1. Raises ValueError."""
        certain, right = checked(confidence, correct)
        if not len(certain):
            raise ValueError("no confidences to fit an isotonic map on")
        starts, where = np.unique(certain, return_inverse=True)
        counts = np.bincount(where).astype(np.float64)
        steps = pool_adjacent_violators(counts, np.bincount(where, weights=right).astype(np.float64))
        return Isotonic(tuple(float(starts[first]) for first, _, _ in steps), tuple(sum_ / n for _, n, sum_ in steps))

    def apply(self, confidence: Any) -> Floats:
        """(n,) in 0..1 -> (n,) float64."""
        step = np.searchsorted(self.confidence, as_floats(confidence), side="right") - 1
        return np.asarray(self.value)[step.clip(0)]

    def to_json(self) -> dict[str, Any]:
        """For map_from_json."""
        return {"name": self.name, "confidence": list(self.confidence), "value": list(self.value)}


Map = InverseLink | Temperature | Isotonic


def map_from_json(saved: Any) -> Map:
    """The map that `to_json` described. Raises ValueError if it is none, or out of range."""
    try:
        kind: Any = {"isotonic": Isotonic, "link": InverseLink}.get(saved["name"], Temperature)
        found: Map = msgspec.convert(saved, kind)
        if found.name == saved["name"] and saved.keys() <= {"name", *asdict(found)}:
            return found
    except (KeyError, TypeError, AttributeError, msgspec.MsgspecError) as error:
        raise ValueError(f"not a recalibration map: {error}") from None
    raise ValueError(f"not a recalibration map: name {saved['name']!r} with {', '.join(saved)}")


def _wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def _likelihoods(values: Tensor, tokens: Tensor, right: Tensor, grid: Floats) -> Floats:
    """Sums of -log likelihood, its slope and its curvature in b, at each b = 1 / temperature: (grid, 3).

    With c the token's probability and d = d log c / db = z - E[z]: log c has curvature -Var[z], and log(1 - c)
    follows. Values (n, vocabulary), tokens (n,), right (n,) float64; each b of the grid is twice the one before.
    """
    values = (values - values.amax(-1, keepdim=True)).clamp(min=-1e4)  # 0 * inf must not arise
    squares, weights, moments = values * values, (values * float(grid[0])).exp_(), []
    for _ in grid:
        moments.append([weights.sum(-1), torch.linalg.vecdot(weights, values), torch.linalg.vecdot(weights, squares)])
        weights.square_()  # much cheaper than exp
    total, first, second = (torch.stack(each).double() for each in zip(*moments))
    mean = first / total
    variance = (second / total - mean * mean).clamp(min=0)
    chosen = values.gather(1, tokens[:, None])[:, 0].double()
    log_c = torch.from_numpy(grid)[:, None].to(chosen) * chosen - total.log()
    log_c = log_c.clamp(max=-_SMALLEST)  # with c = 1 the odds would be infinite
    d, c, rest = chosen - mean, log_c.exp(), -torch.expm1(log_c)
    odds = c / rest
    loss = -(right * log_c + (1 - right) * rest.log())
    slope = -(right - (1 - right) * odds) * d
    curvature = right * variance + (1 - right) * (odds / rest * d * d - odds * variance)
    return torch.stack([loss, slope, curvature], -1).sum(1).numpy(force=True)


def _best_temperature(sums: Floats) -> float:
    """The temperature of the grid's range with the least loss, by the quintic through the two nearest points in log b;
    sums as of _likelihoods."""
    if not sums.any():  # no tokens
        return 1.0
    x, loss = np.log(_GRID), sums[:, 0]
    slope = sums[:, 1] * np.exp(x)
    bend = slope + sums[:, 2] * np.exp(2 * x)
    best = int(np.argmin(loss))
    first = best if slope[best] < 0 else best - 1
    if not 0 <= first < len(x) - 1:
        _tell_end(taken := 1 / float(_GRID[best]))
        return taken
    step = x[first + 1] - x[first]
    ends = [(loss[i], slope[i] * step, bend[i] * step * step) for i in (first, first + 1)]
    powers, rows = np.arange(6), []
    for t in (0.0, 1.0):
        rows += [t**powers, powers * t ** (powers - 1).clip(0), powers * (powers - 1) * t ** (powers - 2).clip(0)]
    quintic = np.polynomial.Polynomial(np.linalg.solve(np.array(rows, dtype=np.float64), np.ravel(ends)))
    roots = quintic.deriv().roots()
    inside = [root.real for root in roots if abs(root.imag) < 1e-9 and -1e-9 <= root.real <= 1 + 1e-9]
    at = x[first] + step * min(inside, key=lambda t: float(quintic(t))) if inside else x[best]
    return 1 / float(np.exp(at))


@lru_cache  # once: maps are fitted to every fold of a text
def _tell_end(taken: float) -> None:
    low, high = 1 / _GRID[[-1, 0]]
    log_line(f"note: the best temperature lies beyond {low:g} to {high:g}, where it is looked for; {taken:g} is taken")
