"""From the loss section of a config to the loss, and to its name in logs and reports."""

from __future__ import annotations

from torch import Tensor

from mt.config import LossConfig
from mt.losses.encouraging import Encouraging
from mt.losses.function import LossFunction
from mt.losses.reference import CLAMP, ReferenceEncouraging
from mt.losses.relatives import ConfidencePenalty, Focal, InverseFocal, RDrop
from mt.losses.smoothing import LabelSmoothedKL
from mt.losses.targets import SmoothedTarget


def build_loss(
    config: LossConfig, *, pad_id: int, begin_id: int, vocabulary_size: int, unigram: Tensor | None = None
) -> LossFunction:
    """The loss of a config. unigram: (vocabulary,) target-side frequencies, used by that definition
    alone, which needs them. Raises ValueError."""
    settings = config.settings()
    if config.name == "focal":
        return Focal(settings["gamma"], pad_id)
    if config.name == "inverse_focal":
        return InverseFocal(settings["gamma"], pad_id, settings["scale"])
    if config.name == "confidence_penalty":
        return ConfidencePenalty(settings["beta"], pad_id)

    def smoothed(weight: float) -> SmoothedTarget:
        return SmoothedTarget(
            settings["definition"],
            weight,
            pad_id=pad_id,
            vocabulary_size=vocabulary_size,
            unigram=unigram if settings["definition"] == "unigram" else None,
            excluded_ids=(pad_id, begin_id) if settings.get("exclude_special") else (),
        )

    target = smoothed(settings["smoothing"])
    if config.name == "label_smoothed_kl":
        return LabelSmoothedKL(target, pad_id, signature(config))
    if config.name == "r_drop":
        return RDrop(target, settings["alpha"], pad_id, signature(config))
    bonus_smoothing = settings["bonus_smoothing"]
    bonus = target if bonus_smoothing is None else smoothed(bonus_smoothing)
    kind = ReferenceEncouraging if settings["reference"] else Encouraging
    return kind(target, bonus, settings["log_end"], pad_id, signature(config))


def signature(config: LossConfig) -> str:
    """What the loss computes, in one string for logs and reports, as sacreBLEU does for scores:
    `ls:0.1|target:uniform_nopad|kl`, `el|log_end:0.5|ls:0.1|target:uniform_nopad|excluded:pad,bos`."""
    settings = config.settings()
    if "smoothing" not in settings:
        return "|".join([config.name, *(f"{name}:{value:g}" for name, value in settings.items())])
    smoothing, definition = settings["smoothing"], settings["definition"]
    parts = [f"ls:{smoothing:g}", f"target:{definition if smoothing else 'hard'}"]
    if config.name == "label_smoothed_kl":
        return "|".join([*parts, "kl"])
    if config.name == "r_drop":
        return "|".join(["r_drop", f"alpha:{settings['alpha']:g}", *parts, "kl"])
    parts = ["el", f"log_end:{settings['log_end']:g}", *parts]
    bonus_smoothing = settings["bonus_smoothing"]
    if bonus_smoothing is not None and bonus_smoothing != smoothing:
        parts.append(f"bonus_ls:{bonus_smoothing:g}")
        if not smoothing:
            parts.append(f"bonus_target:{definition}")
    if settings["exclude_special"]:
        parts.append("excluded:pad,bos")
    if settings["reference"]:
        parts.append(f"reference:clamp{CLAMP:g}")
    return "|".join(parts)
