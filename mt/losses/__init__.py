"""Training losses, with their gradients in closed form. They know no model: logits, or hidden states and the
projection matrix, go in; sums and counts come out."""

from mt.losses.build import build_loss, signature
from mt.losses.encouraging import encouraging
from mt.losses.function import LossFunction
from mt.losses.projection import LossSums, projected_loss
from mt.losses.smoothing import label_smoothed_kl

__all__ = ["LossFunction", "LossSums", "build_loss", "encouraging", "label_smoothed_kl", "projected_loss", "signature"]
