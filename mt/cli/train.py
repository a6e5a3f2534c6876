"""`train.py CONFIG.yaml`: from raw text to a trained model in one run directory."""

from __future__ import annotations

import sys
import time

from mt.cli.main import DONE, program_name, suggest
from mt.config_file import parse_config
from mt.progress import log_line, say


def main(arguments: list[str] | None = None) -> int:
    """Trains the run of a config file and prints its folder; continues it if it was interrupted."""
    started = time.monotonic()
    config = parse_config(sys.argv[1:] if arguments is None else arguments, program_name())
    from mt.training.run import train  # torch: not needed for --help and config errors

    best = train(config, started)
    if best is not None:  # of the processes that torchrun starts, one
        say(best)
        log_line(f"{config.run_dir}: the model, its log, and TensorBoard's files; the best checkpoint is {best}")
        suggest("evaluate", config.run_dir, "--source F --reference F --output DIR")
    return DONE
