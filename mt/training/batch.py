"""One batch on the training device, and its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mt.corpus.batching import pad_batch
from mt.corpus.store import TokenStore
from mt.losses.function import LossFunction
from mt.losses.projection import LossSums, projected_loss
from mt.model.transformer import Transformer
from mt.training.parallel import Gradients


class Batch:
    """One batch on the training device."""

    def __init__(self, store: TokenStore, indices: np.ndarray, tokenizer: Any, device: torch.device) -> None:
        """Pads the pairs `indices` of the store.

        `source` (rows, source_length) and `target_input` (rows, target_length) are int64. `targets` (tokens,) holds
        the real target tokens alone, and `positions` (tokens,) where they stand in the flattened rows, so that
        projection and loss do no work on padding; None where there is no padding.
        """
        sources = [store.source(int(index)) for index in indices]
        targets = [store.target(int(index)) for index in indices]
        padded = pad_batch(targets, tokenizer.pad_id)
        inputs = np.full_like(padded, tokenizer.begin_id)
        inputs[:, 1:] = padded[:, :-1]
        # The ends of shorter sentences become input too; no real position sees them.
        real = np.arange(padded.shape[1]) < np.array([len(target) for target in targets])[:, None]
        self.tokens = int(real.sum())
        self.slots = padded.size + len(sources) * max(len(source) for source in sources)
        self.filled = self.tokens + sum(len(source) for source in sources)
        self.source = _on(device, pad_batch(sources, tokenizer.pad_id))
        self.target_input = _on(device, inputs)
        self.targets = _on(device, padded[real])
        self.positions = _on(device, np.flatnonzero(real)) if self.tokens < padded.size else None


def _on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """An array as a tensor there; a GPU copies it while it computes."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def batch_loss(model: Transformer, batch: Batch, loss: LossFunction) -> LossSums:
    """Loss sums over the real target tokens of a batch."""
    # A loss of several passes sees every sentence as often, each time with dropout of its own.
    source, target_input = (each.repeat(loss.passes, 1) for each in (batch.source, batch.target_input))
    hidden = model(source, target_input).unflatten(0, (loss.passes, -1)).flatten(1, 2).transpose(0, 1)
    if batch.positions is not None:
        hidden = hidden.index_select(0, batch.positions)
    hidden = hidden.flatten(0, 1)  # the passes of a position next to each other
    return projected_loss(hidden, model.output_weight, model.output_bias, batch.targets, loss=loss, pad_id=model.pad_id)


def add_gradients(
    model: Transformer, batch: Batch, loss: LossFunction, gradients: Gradients, bfloat16: bool = False
) -> None:
    """Adds the gradient of the batch's loss sum, and its figures; the one division comes with `Gradients.reduce`."""
    with torch.autocast(batch.source.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        sums = batch_loss(model, batch, loss)
    sums.loss.backward()
    gradients.count(
        tokens=batch.tokens,
        loss=sums.loss.detach(),
        nll=sums.nll,
        correct=sums.correct,
        slots=batch.slots,
        filled=batch.filled,
    )
