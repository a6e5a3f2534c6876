"""From the loss section of a config to the loss, and to its name in logs and reports."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from mt.config import LossConfig
from mt.losses.encouraging import CLAMP, Encouraging, ReferenceEncouraging
from mt.losses.function import LossFunction
from mt.losses.relatives import ConfidencePenalty, Focal, InverseFocal, RDrop
from mt.losses.smoothing import LabelSmoothedKL
from mt.losses.targets import SmoothedTarget


def build_loss(
    config: LossConfig, *, pad_id: int, begin_id: int, vocabulary_size: int, unigram: Tensor | None = None
) -> LossFunction:
    """The loss of a config; unigram: (vocabulary,) target-side frequencies, which the definition of that name needs."""
    settings = config.settings()
    loss: LossFunction
    if config.name == "focal":
        loss = Focal(settings["gamma"], pad_id)
    elif config.name == "inverse_focal":
        loss = InverseFocal(settings["gamma"], pad_id, settings["scale"])
    elif config.name == "confidence_penalty":
        loss = ConfidencePenalty(settings["beta"], pad_id)
    else:
        smoothed = partial(
            SmoothedTarget,
            settings["definition"],
            pad_id=pad_id,
            vocabulary_size=vocabulary_size,
            unigram=unigram if settings["definition"] == "unigram" else None,
            excluded_ids=(pad_id, begin_id) if settings.get("exclude_special") else (),
        )
        target = smoothed(settings["smoothing"])
        if config.name == "label_smoothed_kl":
            loss = LabelSmoothedKL(target, pad_id)
        elif config.name == "r_drop":
            loss = RDrop(target, settings["alpha"], pad_id)
        else:
            bonus_smoothing = settings["bonus_smoothing"]
            bonus = target if bonus_smoothing is None else smoothed(bonus_smoothing)
            kind = ReferenceEncouraging if settings["reference"] else Encouraging
            loss = kind(target, bonus, settings["log_end"], pad_id)
    loss.signature = signature(config)
    return loss


def signature(config: LossConfig) -> str:
    """What the loss computes, in one string for logs and reports, as sacreBLEU does for scores:
    `ls:0.1|target:uniform_nopad|kl`, `el|log_end:0.5|ls:0.1|target:uniform_nopad|excluded:pad,bos`."""
    settings = config.settings()
    if "smoothing" not in settings:
        return "|".join([config.name, *(f"{name}:{value:g}" for name, value in settings.items())])
    smoothing, definition = settings["smoothing"], settings["definition"]
    target = f"ls:{smoothing:g}|target:{definition if smoothing else 'hard'}"
    if config.name == "label_smoothed_kl":
        return f"{target}|kl"
    if config.name == "r_drop":
        return f"r_drop|alpha:{settings['alpha']:g}|{target}|kl"
    text, bonus_smoothing = f"el|log_end:{settings['log_end']:g}|{target}", settings["bonus_smoothing"]
    if bonus_smoothing not in (None, smoothing):
        text += f"|bonus_ls:{bonus_smoothing:g}" + (f"|bonus_target:{definition}" if not smoothing else "")
    text += "|excluded:pad,bos" if settings["exclude_special"] else ""
    return text + (f"|reference:clamp{CLAMP:g}" if settings["reference"] else "")
