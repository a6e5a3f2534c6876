"""From the loss section of a config to the loss, and to its name in logs and reports."""

from __future__ import annotations

from torch import Tensor

from mt.config import LossConfig
from mt.losses.encouraging import Encouraging
from mt.losses.function import LossFunction
from mt.losses.smoothing import LabelSmoothedKL
from mt.losses.targets import SmoothedTarget

_LOG_END = 0.5  # "works for all settings we tested" (the authors of the Encouraging Loss)


def build_loss(
    config: LossConfig, *, pad_id: int, begin_id: int, vocabulary_size: int, unigram: Tensor | None = None
) -> LossFunction:
    """The loss of a config. unigram: (vocabulary,) target-side frequencies, used by that definition
    alone, which needs them. Raises ValueError."""
    encouraging = config.name == "encouraging"
    special = (pad_id, begin_id) if encouraging and config.exclude_special is not False else ()

    def smoothed(weight: float) -> SmoothedTarget:
        return SmoothedTarget(
            config.definition, weight, pad_id=pad_id, vocabulary_size=vocabulary_size,
            unigram=unigram if config.definition == "unigram" else None, excluded_ids=special,
        )  # fmt: skip

    target = smoothed(config.smoothing)
    if not encouraging:
        return LabelSmoothedKL(target, pad_id, signature(config))
    bonus = target if config.bonus_smoothing is None else smoothed(config.bonus_smoothing)
    return Encouraging(target, bonus, _log_end(config), pad_id, signature(config))


def signature(config: LossConfig) -> str:
    """What the loss computes, in one string for logs and reports, as sacreBLEU does for scores:
    `ls:0.1|target:uniform_nopad|kl`, `el|log_end:0.5|ls:0.1|target:uniform_nopad|excluded:pad,bos`."""
    parts = [f"ls:{config.smoothing:g}", f"target:{config.definition if config.smoothing else 'hard'}"]
    if config.name == "label_smoothed_kl":
        return "|".join([*parts, "kl"])
    parts = ["el", f"log_end:{_log_end(config):g}", *parts]
    if config.bonus_smoothing is not None and config.bonus_smoothing != config.smoothing:
        parts.append(f"bonus_ls:{config.bonus_smoothing:g}")
        if not config.smoothing:
            parts.append(f"bonus_target:{config.definition}")
    if config.exclude_special is not False:
        parts.append("excluded:pad,bos")
    return "|".join(parts)


def _log_end(config: LossConfig) -> float:
    return _LOG_END if config.log_end is None else config.log_end
