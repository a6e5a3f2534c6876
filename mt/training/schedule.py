"""The learning rate as a pure function of the update."""

from __future__ import annotations

import math

from mt.config import TrainConfig


def learning_rate(step: int, config: TrainConfig, total_steps: int) -> float:
    """The learning rate of update `step`, counted from 1.

    Linear warm-up from 0 to the peak over `warmup_steps`; then proportional to 1 / sqrt(step) (Vaswani et al.
    2017, section 5.3), half a cosine down to `final_learning_rate` at `total_steps` (Loshchilov & Hutter 2017),
    or flat.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * step / warmup
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / max(step, 1))
    if config.schedule == "cosine":
        share = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        final = config.final_learning_rate
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * share))
    return peak
