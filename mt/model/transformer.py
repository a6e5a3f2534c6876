"""The Transformer encoder-decoder (Vaswani et al. 2017), with the usual later variants by config."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mt.config import ModelConfig
from mt.errors import UserError
from mt.model.attention import rotation_table, sinusoids, sinusoids_in_halves
from mt.model.cache import DecoderState
from mt.model.layers import DecoderLayer, Dropout, EncoderLayer
from mt.model.linear import Linear

_TABLES = {"sinusoidal": sinusoids, "sinusoidal_half": sinusoids_in_halves, "rotary": rotation_table}


class Memory(NamedTuple):
    """What the encoder hands to the decoder."""

    hidden: Tensor
    """(batch, source_length, width)"""
    mask: Tensor | None
    """(batch, 1, 1, source_length) bool, true at real tokens; None where there is no padding"""


class Transformer(nn.Module):
    """Encoder-decoder over token ids.

    Initialisation: embeddings normal with deviation width ** -0.5 and multiplied by sqrt(width) on input
    (Vaswani et al. 2017, section 3.4), so that tied output logits start near unit scale; matrices Xavier uniform
    (Glorot & Bengio 2010), the one of queries, keys and values as a single layer; biases 0; norms 1 and 0.
    """

    def __init__(self, config: ModelConfig, source_size: int, target_size: int, pad_id: int) -> None:
        """Builds the model, freshly initialised from torch's global generator; `pad_id` fills up short rows on both
        sides. Raises UserError for three-way tying of vocabularies of different size."""
        super().__init__()
        if config.tie == "all" and source_size != target_size:
            sizes = f"{source_size} and {target_size} pieces"
            raise UserError(f"model.tie is 'all' but the vocabularies have {sizes}: it needs tokenizer.joint")
        self.config, self.pad_id, width = config, pad_id, config.width
        self.target_embedding = self._embedding(target_size, width)
        self.source_embedding = self.target_embedding if config.tie == "all" else self._embedding(source_size, width)
        self.output_weight = self.target_embedding.weight
        if config.tie == "none":
            self.output_weight = nn.Parameter(torch.randn(target_size, width) * width**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(target_size)) if config.output_bias else None
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        pre = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(width) if pre else nn.Identity()
        self.embedding_dropout = Dropout(config.embedding_dropout)
        self._tables: dict[tuple[str, int], Tensor] = {}
        self.activation_checkpointing = False
        """in training keep only what enters each layer, and compute the rest again for the gradient"""

    @staticmethod
    def _embedding(size: int, width: int) -> nn.Embedding:
        embedding = nn.Embedding(size, width)
        nn.init.normal_(embedding.weight, std=width**-0.5)
        return embedding

    def use_bfloat16_products(self, wanted: bool) -> None:
        """Whether the products of the layers take bfloat16 from now on, see `Linear`; for a processor."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.bfloat16_products = wanted

    def encode(self, source_ids: Tensor) -> Memory:
        """Encodes source sentences: (batch, source_length) int64, each row ends with end of sentence, then padding."""
        real = source_ids != self.pad_id
        # Without padding attention needs no mask. Asking costs a synchronisation on a GPU, so only here on CPU.
        mask = None if source_ids.device.type == "cpu" and bool(real.all()) else real[:, None, None, :]
        hidden = self._embed(self.source_embedding, source_ids, 0)
        rotation = self._rotation(self.config.encoder_heads, 0, source_ids.size(1), hidden)
        for layer in self.encoder:
            hidden = self._run(layer, hidden, mask, rotation)
        return Memory(self.encoder_norm(hidden), mask)

    def decode(self, target_input: Tensor, memory: Memory) -> Tensor:
        """Teacher forcing: (batch, target_length) int64, beginning of sentence and then the target without its last
        token -> (batch, target_length, width), states that `logits` turns into scores of the next token."""
        hidden = self._embed(self.target_embedding, target_input, 0)
        rotation = self._rotation(self.config.decoder_heads, 0, target_input.size(1), hidden)
        for layer in self.decoder:
            hidden = self._run(layer, hidden, memory.hidden, memory.mask, rotation)
        return self.decoder_norm(hidden)

    def forward(self, source_ids: Tensor, target_input: Tensor) -> Tensor:
        """`encode`, then `decode`: (batch, target_length, width)."""
        return self.decode(target_input, self.encode(source_ids))

    def logits(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, target_size), unnormalised."""
        return functional.linear(hidden, self.output_weight, self.output_bias)

    def start(self, memory: Memory) -> DecoderState:
        """An empty decoder state, one row a sentence."""
        projected = [layer.cross.project_memory(memory.hidden).contiguous() for layer in self._decoder_layers()]
        return DecoderState(projected, memory.mask)

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """`read`, then the (rows, target_size) logits of the next token."""
        return self.logits(self.read(tokens, state))

    def read(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Reads one token a row: (rows,) int64, beginning of sentence at first, then the token chosen last ->
        (rows, width), states that `logits` turns into scores of the next token. Changes `state` in place."""
        state.make_room()
        hidden = self._embed(self.target_embedding, tokens[:, None], state.length)
        hidden = hidden.view(-1, state.beams, self.config.width)
        rotation = self._rotation(self.config.decoder_heads, state.length, 1, hidden)
        for index, layer in enumerate(self._decoder_layers()):
            hidden = layer.step(hidden, state, index, rotation)
        state.length += 1
        return self.decoder_norm(hidden).flatten(0, 1)

    def _run(self, layer: nn.Module, *inputs: Tensor | None) -> Tensor:
        """What a layer makes of its inputs. Dropout is the same when it is computed again."""
        if self.activation_checkpointing and self.training:
            return cast(Tensor, checkpoint(layer, *inputs, use_reentrant=False))
        return cast(Tensor, layer(*inputs))

    def _decoder_layers(self) -> list[DecoderLayer]:
        return cast(list[DecoderLayer], list(self.decoder))

    def _embed(self, embedding: nn.Embedding, ids: Tensor, offset: int) -> Tensor:
        """(batch, length) int64 -> (batch, length, width), positions counted from `offset`."""
        hidden = embedding(ids) * math.sqrt(self.config.width)
        if self.config.positions != "rotary":
            table = self._table(self.config.positions, self.config.width, offset + ids.size(1), hidden)
            hidden = hidden + table[offset : offset + ids.size(1)].to(hidden.dtype)
        return self.embedding_dropout(hidden)

    def _rotation(self, heads: int, offset: int, length: int, like: Tensor) -> Tensor | None:
        if self.config.positions != "rotary":
            return None
        return self._table("rotary", self.config.width // heads, offset + length, like)[:, offset : offset + length]

    def _table(self, name: str, width: int, length: int, like: Tensor) -> Tensor:
        """The table of positions, made anew with room to spare when it is too short."""
        table = self._tables.get((name, width))
        if table is None or table.size(-2) < length or table.device != like.device:
            table = self._tables[name, width] = _TABLES[name](max(512, 2 * length), width).to(like.device)
        return table
