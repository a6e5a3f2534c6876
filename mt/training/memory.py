"""Memory: what training will need is estimated, what it took is measured; what it kept can be given back."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from mt.config import Config, ModelConfig
from mt.errors import UserError
from mt.model.transformer import Transformer
from mt.training.optimiser import Optimiser

_FLOAT = 4  # bytes
_CPU_WORDS = ("not enough memory", "can't allocate memory", "DefaultCPUAllocator")  # of a plain RuntimeError
_PROJECTION_FLOATS = 32 << 20  # logits that exist at a time, see mt.losses.projection


def give_back_memory() -> None:
    """Hands what `keep_freed_memory` has kept back to the system, before work of another kind."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Turns the errors of a device or a machine without memory left into a UserError that names what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not known and not any(words in str(error) for words in _CPU_WORDS):
            raise
        train = config.train
        raise UserError(
            f"memory ran out at train.batch_tokens {train.batch_tokens}: lower it and raise train.accumulate "
            f"({train.accumulate}) by as much, or set train.activation_checkpointing to true"
        ) from None


def reset_peak(device: torch.device) -> None:
    """Lets `peak_bytes` count from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed: then what came before counts too
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def current_bytes(device: torch.device) -> int:
    """What this process holds now: on a GPU its tensors, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _status("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held, as in `current_bytes`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(name: str) -> int:
    """A figure of /proc/self/status in bytes; where there is none the peak of the resident set."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def activation_bytes(
    rows: np.ndarray, source_length: np.ndarray, target_length: np.ndarray, config: Config, passes: int = 1
) -> np.ndarray:
    """About what batches need for their gradients, beside weights and optimiser.

    Counts the tensors that each layer keeps for its gradient; in bfloat16 it is less.

    Args:
        rows, source_length, target_length: (batches,) pairs of each batch, and the lengths they are padded to.
        config: the run.
        passes: how often the loss has every sentence go through the model.

    Returns:
        (batches,) float64 bytes.
    """
    model = config.model
    width = model.width
    inner = {"relu": 1, "gelu": 2, "swiglu": 4}[model.activation] + (model.activation_dropout > 0)
    # norm in and out, queries, keys, values, heads together, dropout mask; the same around the feed-forward layer
    attention, feed_forward = 7 * width, 3 * width
    encoder = attention + feed_forward + inner * model.encoder_feed_forward
    decoder = attention + feed_forward + inner * model.decoder_feed_forward + 5 * width  # 5: cross-attention
    source = encoder * model.encoder_layers + 2 * width * model.decoder_layers + 4 * width
    target = decoder * model.decoder_layers + 6 * width
    if config.train.activation_checkpointing:
        source = encoder + width * (model.encoder_layers + 4)
        target = decoder + width * (model.decoder_layers + 6)
    places = np.asarray(rows, dtype=np.float64) * passes
    total: np.ndarray = places * (source_length * source + target_length * target)
    if model.attention_dropout > 0:
        total += 3 * places * _attention_weights(model, source_length, target_length)
    return total * _FLOAT


def _attention_weights(model: ModelConfig, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights of all attention layers of one pair."""
    weights: np.ndarray = (
        model.encoder_layers * model.encoder_heads * source * source
        + model.decoder_layers * model.decoder_heads * target * (source + target)
    )
    return weights


def fixed_bytes(model: Transformer, optimiser: Optimiser, batch_tokens: int) -> int:
    """What an update needs beside weights and activations: gradients, optimiser, logits and the projection's own."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    projection = model.output_weight.numel() + min(_PROJECTION_FLOATS, len(model.output_weight) * batch_tokens)
    return _FLOAT * (weights * (1 if optimiser.started else 3) + projection)


def in_words(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
