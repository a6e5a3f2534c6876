"""From gradients to weights: their sum over processes, AdamW, the learning rate, the moving average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mt.config import TrainConfig
from mt.errors import UserError
from mt.training.distributed import Group

FIGURES = ("tokens", "loss", "nll", "correct", "slots", "filled", "interruptions")
"""what is summed over processes beside the gradients"""


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) for a model; weight decay on matrices only, not on biases and norms."""

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self.parameters = dict(model.named_parameters())
        each = self.parameters.values()
        groups = [
            {"params": [p for p in each if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in each if p.ndim < 2], "weight_decay": 0.0},
        ]
        betas = config.betas[0], config.betas[1]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=config.epsilon, fused=True)

    def step(self, learning_rate: float) -> None:
        """One update of all parameters."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()

    def tensors(self) -> dict[str, Tensor]:
        """The state by parameter name, for a checkpoint. Empty before the first update."""
        return {
            f"optimiser.{key}.{name}": value.detach().cpu().contiguous()
            for name, parameter in self.parameters.items()
            for key, value in self.adamw.state.get(parameter, {}).items()
        }

    def load(self, tensors: dict[str, Tensor], origin: Path) -> None:
        """Puts back what `tensors` gave after an update. Raises UserError, which names the file `origin`, when they are
        of another model or optimiser."""
        for name, parameter in self.parameters.items():
            keys = ("step", "exp_avg", "exp_avg_sq")
            found = {key: tensors.get(f"optimiser.{key}.{name}", torch.empty(0)) for key in keys}
            if any(it.shape != (() if key == "step" else parameter.shape) for key, it in found.items()):
                raise UserError(f"{origin}: no state of the optimiser that fits {name} of this run's model; restore it")
            self.adamw.state[parameter] = {key: value.to(parameter.device).clone() for key, value in found.items()}


class Plan(NamedTuple):
    """How many updates a run has, and how far its learning rate has come at one of them; a budget plans anew."""

    steps: int
    """updates of the whole run; 0: not known yet"""
    since: int
    """update from which the rest of the decay is spread evenly"""
    share: float = 0.0
    """of the decay, done by then"""

    def share_at(self, step: int) -> float:
        """Share of the decay that is done at an update: negative before it begins, 1 at the last one."""
        if not self.steps or step >= self.steps:
            return 1.0 if self.steps else self.share
        return self.share + (1 - self.share) * ((step - self.since) / max(1, self.steps - self.since))

    def anew(self, step: int, steps: int) -> Plan:
        """As many updates in all as `steps`, seen from update `step`; the learning rate does not jump."""
        return Plan(steps, max(step, self.since), max(0.0, self.share_at(step)))


def learning_rate(step: int, config: TrainConfig, plan: Plan) -> float:
    """The learning rate of update `step`, counted from 1.

    Linear warm-up from 0 to the peak over `warmup_steps`; then proportional to 1 / sqrt(step) (Vaswani et al. 2017,
    section 5.3), half a cosine down to `final_learning_rate` at the last update (Loshchilov & Hutter 2017), flat until
    a straight line leads there over the last `decay_share` of all updates (Hägele et al. 2024, section 3), or flat.
    While the number of updates is not known no decay begins.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if step < warmup:
        return peak * step / warmup
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(max(warmup, 1) / max(step, 1))
    if not plan.steps:
        return peak
    final, share = config.final_learning_rate, plan.share_at(step)
    if config.schedule == "cosine":
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * share))
    if config.schedule == "warmup_stable_decay":
        return final + (peak - final) * min(1.0, (1.0 - share) / config.decay_share)
    return peak


def first_plan(config: TrainConfig, steps: int) -> Plan:
    """The plan of a run of so many updates; its cosine begins after the warm-up."""
    return Plan(steps, config.warmup_steps if config.schedule == "cosine" else 0)


class Gradients:
    """All gradients in one flat buffer, so that one sum over processes and one norm serve for all parameters."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        self.group, parameters = group, list(model.parameters())
        sizes = [parameter.numel() for parameter in parameters]
        self.buffer = parameters[0].new_zeros(sum(sizes) + len(FIGURES))
        self.flat, self.figures = self.buffer.split([sum(sizes), len(FIGURES)])
        for parameter, gradient in zip(parameters, self.flat.split(sizes)):
            parameter.grad = gradient.view_as(parameter)  # a view: backward adds straight into the buffer

    def clear(self) -> None:
        """Sets gradients and figures to 0; the next backward passes add to them."""
        self.buffer.zero_()

    def count(self, **figures: float | Tensor) -> None:
        """Adds to the figures of this update, named as in `FIGURES`."""
        for name, value in figures.items():
            self.figures[FIGURES.index(name)] += value

    def reduce(self) -> dict[str, Tensor]:
        """Sums over all processes; divides the gradients, once, by the update's tokens. Returns the float64 figures."""
        self.group.all_reduce(self.buffer)
        self.flat /= self.figures[FIGURES.index("tokens")]
        return dict(zip(FIGURES, self.figures.double().unbind()))

    def clip(self, largest: float) -> Tensor:
        """Scales the gradients down to norm `largest` (0: leaves them); returns the norm before."""
        norm = self.flat.norm()
        if largest > 0:
            self.flat *= (largest / (norm + 1e-6)).clamp(max=1.0)  # as torch's clip_grad_norm_; to ask would stop a GPU
        return norm


class MovingAverage:
    """Exponential moving average of the weights (Polyak & Juditsky 1992), with a warm-up of its own."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = list(model.parameters())
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after update `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))  # so that the first weights are soon forgotten
        torch._foreach_lerp_(self.averages, [parameter.detach() for parameter in self.parameters], 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for parameter, average in zip(self.parameters, self.averages):
            parameter.data, average.data = average.data, parameter.data  # the optimiser knows the parameters
