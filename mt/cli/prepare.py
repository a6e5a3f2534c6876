"""`tools/prepare.py CONFIG.yaml`: cleaning, tokeniser and token store of a run, without training."""

from __future__ import annotations

import json
import sys

from mt.cli.main import DONE, program_name, suggest
from mt.config_file import parse_config
from mt.progress import log_line, say


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data of a config file and prints the cleaning report as JSON."""
    config = parse_config(sys.argv[1:] if arguments is None else arguments, program_name())
    from mt.training.distributed import Group  # torch: not needed for --help and config errors
    from mt.training.setup import prepare_data

    prepared = prepare_data(config, Group())
    log_line(f"prepared in {prepared.folder}")
    say(json.dumps(prepared.cleaning, ensure_ascii=False, indent=2))
    suggest("train", *(sys.argv[1:] if arguments is None else arguments))
    return DONE
