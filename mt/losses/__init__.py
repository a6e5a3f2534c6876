"""Training losses, with their gradients in closed form. They know no model: logits, or hidden states and the
projection matrix, go in; sums and counts come out."""

from mt.losses.build import build_loss, signature
from mt.losses.encouraging import encouraging
from mt.losses.function import LossFunction
from mt.losses.projection import LossSums, projected_loss
from mt.losses.relatives import confidence_penalty, focal, inverse_focal, rdrop
from mt.losses.smoothing import graduated_smoothing, label_smoothed_kl

__all__ = [
    "LossFunction",
    "LossSums",
    "build_loss",
    "confidence_penalty",
    "encouraging",
    "focal",
    "graduated_smoothing",
    "inverse_focal",
    "label_smoothed_kl",
    "projected_loss",
    "rdrop",
    "signature",
]
