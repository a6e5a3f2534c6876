"""`translate.py MODEL`: lines in, lines out, same count, same order."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mt.cli.command import DONE, CommandParser
from mt.cli.options import add_model, positive, use_threads
from mt.errors import UserError
from mt.progress import message, progress_bar

_NAMED_LINES = 5  # line numbers that the warning about cut lines gives


def main(arguments: list[str] | None = None) -> int:
    """Translates files or standard input."""
    options = _parser().parse_args(arguments)
    from mt import load
    from mt.decoding.lines import WaitingLines, check_readable, file_lines

    check_readable(options.input)
    lines: Iterable[str] = file_lines(options.input)
    more_waiting: Callable[[], bool] | None = None
    if not options.input:
        lines = waiting_lines = WaitingLines(_standard_input())
        more_waiting = waiting_lines.more_waiting
    cut_lines: list[int] = []
    with _output(options.output) as output:
        use_threads(options.threads)
        translator = load(options.model, options.device)
        records = translator.translate(
            lines,
            beam=options.beam,
            nbest=options.nbest,
            length_penalty=options.length_penalty,
            length_alpha=options.length_alpha,
            batch_tokens=options.batch_tokens,
            more_waiting=more_waiting,
            on_cut=cut_lines.append,
        )
        for record in _shown(records, options):
            output.write(_formatted(record, options.format, options.nbest).encode("utf-8"))
            output.flush()
    _warn_of_cut_lines(cut_lines, translator.loaded.config.decode.max_length)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        description="Translates one sentence a line. Every line of the input, blank ones too, gives one line of "
        "output\nin the same place. On a terminal, or from a slow pipe, each line is answered at once.",
        example="translate.py runs/demo --input news.de --output news.en --beam 5",
    )
    add_model(parser)
    parser.add_argument(
        "--input", type=Path, nargs="+", action="extend", default=[], metavar="F",
        help="text files, plain or gzip, one after the other (default: standard input)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="F", help="file to write (default: standard output)")
    parser.add_argument("--beam", type=positive, help="hypotheses kept (default: as the model's config says)")
    parser.add_argument(
        "--nbest", type=positive, default=1, metavar="N",
        help="up to N different translations of each line, best first; as text one a line: "
        "LINE ||| TRANSLATION ||| SCORE, lines counted from 0",
    )  # fmt: skip
    parser.add_argument(
        "--length_penalty", choices=["none", "average", "gnmt"], help="what scores are divided by"
    )
    parser.add_argument("--length_alpha", type=float, metavar="A", help="exponent of the length penalty")
    parser.add_argument(
        "--format", choices=["text", "jsonl"], default="text",
        help="jsonl: one object a line, with score, confidence, tokens and their log-probabilities",
    )  # fmt: skip
    parser.add_argument("--batch_tokens", type=positive, help="most positions of a batch, beams included")
    return parser


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise UserError("standard input is closed; give a file with --input") from None


@contextmanager
def _output(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or `path`.partial, which becomes `path` when all is written.

    After an interruption `path`.partial holds what was done so far, and `path` is as it was.
    """
    if path is None:
        yield sys.stdout.buffer
        return
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        if path.is_dir():
            raise UserError(f"{path}: is a folder; give the name of a file to write")
        with path.open("wb") as stream:  # a device or a named pipe
            yield stream
        return
    partial = path.with_name(path.name + ".partial")
    try:
        stream = partial.open("wb")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    try:
        with stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        if partial.stat().st_size == 0:
            partial.unlink()
        raise
    os.replace(partial, path)


def _shown(records: Iterator[dict[str, Any]], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Counts the records on a progress bar, unless the lines themselves go to or come from the terminal."""
    if (options.output is None and sys.stdout.isatty()) or (not options.input and sys.stdin.isatty()):
        yield from records
        return
    with progress_bar(None, "translate", "line") as bar:
        for record in records:
            yield record
            bar.update(1)


def _formatted(record: dict[str, Any], form: str, nbest: int) -> str:
    """The record as lines of output, each with its line feed."""
    if form == "jsonl":
        from mt.decoding.records import json_line

        return json_line(record) + "\n"
    if nbest == 1:
        return f"{record['translation']}\n"
    return "".join(
        f"{record['line']} ||| {output['translation']} ||| {output['score']}\n" for output in record["nbest"]
    )


def _warn_of_cut_lines(lines: list[int], longest: int) -> None:
    if not lines:
        return
    named = ", ".join(str(line + 1) for line in lines[:_NAMED_LINES])
    more = ", ..." if len(lines) > _NAMED_LINES else ""
    message(
        f"warning: lines cut before translation because they are longer than {longest} tokens "
        f"(decode.max_length): {len(lines)}, counted from 1 these: {named}{more}"
    )
