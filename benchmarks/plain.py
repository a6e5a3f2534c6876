"""The baseline of the train suite: what one writes from torch's tutorial, with batches of similar length.

`torch.nn.Transformer`, `CrossEntropyLoss(label_smoothing=0.1)`, Adam, all cores as threads of one process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from mt.config import Config, ModelConfig
from mt.corpus.batching import pad_batch
from mt.corpus.store import TokenStore, open_store
from mt.corpus.tokenizer import load_tokenizer
from mt.model.attention import sinusoids
from mt.training.resources import peak_bytes, reset_peak

BASELINE = "nn.Transformer, CrossEntropyLoss(label_smoothing=0.1), length-grouped batches, one process"
TOKENS = 4096
PAD, BEGIN = 0, 2  # ids of the tokeniser


class PlainTransformer(nn.Module):
    """The model as the parts that torch brings make it."""

    def __init__(self, config: ModelConfig, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, config.width, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=config.width**-0.5)
        self.layers = nn.Transformer(
            config.width,
            config.encoder_heads,
            config.encoder_layers,
            config.decoder_layers,
            config.encoder_feed_forward,
            config.dropout,
            batch_first=True,
        )
        self.register_buffer("positions", sinusoids(256, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.width**0.5

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        positions = cast(torch.Tensor, self.positions)
        hidden: torch.Tensor = self.dropout(self.embedding(ids) * self.scale + positions[: ids.size(1)])
        return hidden

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits (rows, length, vocabulary) of source (rows, source_length) and target input (rows, length)."""
        causal = nn.Transformer.generate_square_subsequent_mask(target.size(1), device=target.device).isinf()
        padding = source == PAD
        hidden = self.layers(
            self._embed(source),
            self._embed(target),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_key_padding_mask=target == PAD,
            tgt_is_causal=True,
        )
        return nn.functional.linear(hidden, self.embedding.weight)


def train_plainly(connection: Connection, config: Config, folder: Path) -> None:
    """Sent n, makes n updates and answers with their figures; sent 0, answers with its memory and ends."""
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    reset_peak(device)
    start = peak_bytes(device)
    torch.manual_seed(1)
    model = PlainTransformer(config.model, load_tokenizer(folder).target_size).to(device).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4, betas=(0.9, 0.98), eps=1e-9)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=0.1)
    batches = grouped_batches(open_store(folder / "train"))
    while (count := connection.recv()) > 0:
        tokens, began = 0, time.perf_counter()
        for source, target in islice(batches, count):
            source, target = source.to(device), target.to(device)
            begin = torch.full((len(target), 1), BEGIN, device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                logits = model(source, torch.cat([begin, target[:, :-1]], dim=1))
                loss = criterion(logits.flatten(0, 1), target.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            tokens += int((target != PAD).sum())
        connection.send({"tokens": tokens, "seconds": time.perf_counter() - began})
    peak = peak_bytes(device)
    connection.send({"growth": peak - start, "resident": peak})


def grouped_batches(store: TokenStore) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Equally many sentences a batch, of about TOKENS target tokens, sorted by length among 50 batches."""
    random = np.random.default_rng(1)
    rows = max(1, round(TOKENS * len(store) / int(store.target_lengths.sum())))
    while True:
        order = random.permutation(len(store))
        batches = []
        for start in range(0, len(order), 50 * rows):
            pool = order[start : start + 50 * rows]
            pool = pool[np.argsort(store.source_lengths[pool], kind="stable")]
            batches += [pool[first : first + rows] for first in range(0, len(pool), rows)]
        for index in random.permutation(len(batches)):
            sides = ([side(int(pair)) for pair in batches[index]] for side in (store.source, store.target))
            source, target = (torch.from_numpy(pad_batch(list(side), PAD)) for side in sides)
            yield source, target
