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
        "tokens, log_probs, token_confidence, unknown, target_unknown (tokens never seen in training) and overlong.",
        example="runs/demo --source test.de --target test.en > scores.jsonl",
    )
    add_model(parser)
    parser.add_argument("--source", type=Path, required=True, metavar="F", help="source lines, plain or packed")
    parser.add_argument("--target", type=Path, required=True, metavar="F", help="their translations, plain or packed")
    given = parser.parse_args(arguments)
    from mt.files.atomic import write_all
    from mt.files.lines import check_readable, paired_lines
    from mt.files.output import check_apart, standard_output

    output = standard_output()
    check_apart([("--source", given.source), ("--target", given.target)], ("standard output", Path("/dev/stdout")))
    check_readable([given.source, given.target])
    use_threads(given.threads)
    from mt.decoding.records import Remarks, json_line
    from mt.decoding.scoring import score_lines
    from mt.model.directory import load_model

    loaded = load_model(given.model, given.device)
    remarks = Remarks(loaded.tokenizer)
    silent = not sys.stderr.isatty()  # what is piped is quiet
    with progress_bar(None, "score", "line", silent, leave=False) as bar:
        for record in score_lines(loaded, paired_lines(given.source, given.target)):
            write_all(output, (json_line(record) + "\n").encode("utf-8"), "standard output")
            remarks.add(record)
            bar.update(1)
    remarks.warn("scored whole, which translation splits,", loaded.config.decode.max_length)
    return DONE
