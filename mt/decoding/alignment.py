"""Which source token each output token comes from, as the attention of the decoder to the source tells it.

The weights of the last decoder layer but one, averaged over its heads, follow word alignments best (Garg et al. 2019,
section 4.1). They are read where the output token is predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from mt.decoding.sources import length_groups, padded
from mt.model.directory import LoadedModel
from mt.model.layers import DecoderLayer
from mt.model.transformer import Transformer

Pairs = list[list[int]]


def alignments(
    loaded: LoadedModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_tokens: int
) -> list[Pairs]:
    """Aligns outputs with their sources in one pass of the model over them.

    Args:
        loaded: the model.
        sources, targets: ids, end of sentence last.
        batch_tokens: most positions of a batch on either side.

    Returns:
        For each output [source token, output token] for each of its tokens but the end, counted from 0; the end of
        the source is aligned with nothing.
    """
    found: list[Pairs] = [[] for _ in sources]
    pad_id, device = loaded.tokenizer.pad_id, loaded.model.output_weight.device
    lengths = [max(len(source), len(target)) for source, target in zip(sources, targets)]
    for group in length_groups(lengths, batch_tokens):
        read = padded([[loaded.tokenizer.begin_id, *targets[index][:-1]] for index in group], pad_id, device)
        weights = attention(loaded.model, padded([sources[index] for index in group], pad_id, device), read)
        for row, index in zip(weights, group):
            words = len(sources[index]) - 1
            if words:
                best = row[: len(targets[index]) - 1, :words].argmax(-1).tolist()
                found[index] = [[source, target] for target, source in enumerate(best)]
    return found


@torch.inference_mode()
def attention(model: Transformer, source_ids: Tensor, target_input: Tensor) -> Tensor:
    """Attention of the last decoder layer but one to the source, the mean over its heads.

    Args:
        model: in evaluation mode.
        source_ids: (batch, source_length) int64.
        target_input: (batch, target_length) int64, as `Transformer.decode` reads it.

    Returns:
        (batch, target_length, source_length), each row sums to 1; 0 at padding.
    """
    layer = cast(DecoderLayer, model.decoder[max(len(model.decoder) - 2, 0)])
    seen: list[tuple[Any, ...]] = []
    hook = layer.cross.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    try:
        model.decode(target_input, model.encode(source_ids))
    finally:
        hook.remove()
    hidden, projected, mask = seen[0]
    keys = projected[0]
    batch, heads, _, head_width = keys.shape
    query = layer.cross.query(hidden).view(batch, -1, heads, head_width).transpose(1, 2)
    scores = query @ keys.transpose(2, 3) * head_width**-0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).mean(1)
