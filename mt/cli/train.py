"""`train.py CONFIG.yaml`: from raw text to a trained model in one run directory."""

from __future__ import annotations

import sys
import time

from mt.cli.main import DONE, program_name
from mt.config_file import parse_config
from mt.progress import say


def main(arguments: list[str] | None = None) -> int:
    """Trains the run of a config file and prints its folder; continues it if it was interrupted."""
    started = time.monotonic()
    config = parse_config(sys.argv[1:] if arguments is None else arguments, program_name())
    from mt.training.run import train  # torch: not needed for --help and config errors

    best = train(config, started)
    if best is not None:  # of the processes that torchrun starts, one
        say(best)
    return DONE
