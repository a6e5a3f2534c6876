"""`tools/prepare.py CONFIG.yaml`: cleaning, tokeniser and token store of a run, without training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from mt.cli.main import DONE, program_name, suggest
from mt.config_file import parse_config
from mt.progress import log_line, say


def main(arguments: list[str] | None = None) -> int:
    """Prepares the data of a config file and prints what was read, kept and dropped, and why."""
    config = parse_config(sys.argv[1:] if arguments is None else arguments, program_name())
    from mt.training.distributed import Group  # torch: not needed for --help and config errors
    from mt.training.setup import prepare_data

    prepared = prepare_data(config, Group())
    say(*_table(prepared.cleaning))
    log_line(f"prepared in {prepared.folder}; cleaning.json there shows some of what was dropped")
    suggest("train", *(sys.argv[1:] if arguments is None else arguments))
    return DONE


def _table(cleaning: dict[str, Any]) -> Iterator[str]:
    """The pairs of each corpus, then of all: read, dropped by each rule, kept. No line is wider than 80 columns."""
    rules = {rule: found["dropped"] for rule, found in cleaning["rules"].items() if found["dropped"]}
    together = {"name": "all corpora", "read": cleaning["read"], "kept": cleaning["kept"], "dropped": rules}
    for corpus in [*cleaning["corpora"], *([together] if len(cleaning["corpora"]) > 1 else [])]:
        name = corpus["name"]
        counts = {"read": corpus["read"], **corpus.get("dropped", {}), "kept": corpus["kept"]}
        for what, count in counts.items():
            share = f"{100 * count / max(1, corpus['read']):6.1f} %"
            yield f"{name if len(name) < 35 else '…' + name[-33:]:34}  {what:17}  {count:>15,} {share}"
            name = ""
