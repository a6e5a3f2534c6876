"""The learning rate as a pure function of the update."""

from __future__ import annotations

import math

from mt.config import TrainConfig


def learning_rate(step: int, config: TrainConfig, total_steps: int) -> float:
    """The learning rate of update `step`, counted from 1.

    Linear warm-up from 0 to the peak over `warmup_steps`; then proportional to 1 / sqrt(step) (Vaswani et al.
    2017, section 5.3), half a cosine down to `final_learning_rate` at `total_steps` (Loshchilov & Hutter 2017),
    flat until a straight line leads there over the last `decay_share` of all updates (Hägele et al. 2024,
    section 3), or flat. While `total_steps` is not known (0) no decay begins.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * step / warmup
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / max(step, 1))
    if not total_steps:
        return peak
    final = config.final_learning_rate
    if config.schedule == "cosine":
        share = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * share))
    if config.schedule == "warmup_stable_decay":
        return final + (peak - final) * min(1.0, max(0, total_steps - step) / (config.decay_share * total_steps))
    return peak
