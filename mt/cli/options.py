"""Options that the commands which run a model share."""

from __future__ import annotations

import argparse
from pathlib import Path

from mt.processes import available_cores


def add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL, --device and --threads."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory, or run directory (its best model)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")


def positive(text: str) -> int:
    """A whole number of at least 1; for argparse's `type`."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def use_threads(count: int | None) -> int:
    """Lets torch use `count` processor threads; None: as many as there are cores for this process. Returns it."""
    import torch  # not needed for --help

    threads = count or available_cores()
    torch.set_num_threads(threads)
    return threads
