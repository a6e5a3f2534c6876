"""`tools/score.py MODEL --source F --target F`: what the model thinks of given translations."""

from __future__ import annotations

import sys
from pathlib import Path

from mt.cli.main import DONE, CommandParser, add_model, use_threads
from mt.progress import progress_bar


def main(arguments: list[str] | None = None) -> int:
    """Prints one JSON object for each pair of lines."""
    parser = CommandParser(
        description="Forced decoding: the model's log-probability of each token of given translations. Prints JSON "
        "lines\nwith line, source, target, score (sum of log_probs, in nats), confidence (mean of token_confidence),\n"
        "tokens, log_probs and token_confidence.",
        example="tools/score.py runs/demo --source test.de --target test.en > scores.jsonl",
    )
    add_model(parser)
    parser.add_argument("--source", type=Path, required=True, metavar="F", help="source lines, plain or gzip")
    parser.add_argument("--target", type=Path, required=True, metavar="F", help="their translations, plain or gzip")
    given = parser.parse_args(arguments)
    from mt.files.lines import check_readable, paired_lines

    check_readable([given.source, given.target])
    use_threads(given.threads)
    from mt.decoding.records import json_line
    from mt.decoding.scoring import score_lines
    from mt.model.directory import load_model

    loaded = load_model(given.model, given.device)
    with progress_bar(None, "score", "line", leave=False) as bar:
        for record in score_lines(loaded, paired_lines(given.source, given.target)):
            sys.stdout.buffer.write((json_line(record) + "\n").encode("utf-8"))
            bar.update(1)
    sys.stdout.buffer.flush()
    return DONE
