"""The loss section of a config: one flat list of fields, of which each loss has some."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from mt.settings import BelowOne, Section, Share, within

_SMOOTHED: dict[str, Any] = {"smoothing": 0.1, "definition": "uniform_nopad"}
_LOSSES: dict[str, dict[str, Any]] = {
    "label_smoothed_kl": _SMOOTHED,
    "encouraging": {**_SMOOTHED, "log_end": 0.5, "bonus_smoothing": None, "exclude_special": True, "reference": False},
    "focal": {"gamma": 2.0},
    "inverse_focal": {"gamma": 1.0, "scale": 1.0},
    "confidence_penalty": {"beta": 0.1},
    "r_drop": {**_SMOOTHED, "alpha": 5.0},
}
"""the fields of each loss, with their defaults"""
_PUBLISHED = {"definition": "uniform", "exclude_special": False}  # what goes with `reference`


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """The training loss: `name` picks it; a field of another loss is an error. docs/losses.md explains them."""

    name: Literal["label_smoothed_kl", "encouraging", "focal", "inverse_focal", "confidence_penalty", "r_drop"] = (
        "label_smoothed_kl"
    )
    smoothing: BelowOne | None = None
    """label_smoothed_kl, encouraging, r_drop: label smoothing weight (default 0.1); 0: hard targets"""
    definition: Literal["uniform", "others", "uniform_nopad", "others_nopad", "scatter", "unigram"] | None = None
    """label_smoothed_kl, encouraging, r_drop: how the smoothing mass is spread over the vocabulary (default:
    uniform_nopad)"""
    log_end: Share | None = None
    """encouraging: the bonus follows log(1 - p) up to this probability, then its tangent (default 0.5)"""
    bonus_smoothing: BelowOne | None = None
    """encouraging: smoothing weight of the bonus (default: the same as smoothing)"""
    exclude_special: bool | None = None
    """encouraging: padding and beginning-of-sentence classes get no smoothing mass and no bonus (default true)"""
    reference: bool | None = None
    """encouraging: as the published code computes it, for comparison: 1 - p clamped, all classes smoothed over
    (default false)"""
    gamma: Annotated[float, within(0, 10)] | None = None
    """focal, inverse_focal: exponent of the factor 1 - p (default 2) or 1 + scale * p (default 1)"""
    scale: Annotated[float, within(0, 100)] | None = None
    """inverse_focal: how much p counts in that factor (default 1)"""
    beta: Annotated[float, within(0, 100)] | None = None
    """confidence_penalty: weight of the entropy (default 0.1)"""
    alpha: Annotated[float, within(0, 100)] | None = None
    """r_drop: weight of the divergence between two passes (default 5)"""

    def _check(self) -> None:
        for item in fields(self):
            value, owners = getattr(self, item.name), [name for name, own in _LOSSES.items() if item.name in own]
            own = item.name == "name" or value is None or self.name in owners
            allowed = f"left out: it belongs to {', '.join(owners)}, and loss.name is {self.name}"
            self._require(own, item.name, allowed)
        if self.reference:
            for name, published in _PUBLISHED.items():
                as_published = getattr(self, name) in (None, published)
                why = f"{published} or left out: so is the published code, and loss.reference is true"
                self._require(as_published, name, why)

    def settings(self) -> dict[str, Any]:
        """The fields of this loss, with defaults where none is given."""
        defaults = {**_LOSSES[self.name], **(_PUBLISHED if self.reference else {})}
        return defaults | {name: given for name in defaults if (given := getattr(self, name)) is not None}
