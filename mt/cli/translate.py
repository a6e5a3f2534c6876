"""`translate.py MODEL`: lines in, lines out, same count, same order."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt import load
from mt.cli.command import DONE, CommandParser
from mt.cli.options import add_model, positive, use_threads
from mt.cli.search_options import FIELDS, add_search
from mt.errors import UserError
from mt.progress import log_line, progress_bar

if TYPE_CHECKING:
    from mt.decoding.translator import Translator
    from mt.files.lines import TextDigest

_NAMED_LINES = 5  # line numbers that the warning about too long lines gives

_SEARCH = ("beam", "nbest", "length_penalty", "length_alpha", "batch_tokens", *FIELDS)
"""options that are fields of SearchOptions"""
_FORMATTING = ("format", "overlong", "alignments", "flag_below", "engine", "compute_type")
"""further options that the output depends on"""


def main(arguments: list[str] | None = None) -> int:
    """Translates files or standard input."""
    options = _parser().parse_args(arguments)
    if options.alignments and options.format != "jsonl":
        raise UserError("--alignments: only JSON lines have a place for them; add --format jsonl")
    _check_flagging(options)
    from mt.files.flagged import flagged_lines
    from mt.files.lines import WaitingLines, check_readable, read_lines, text_digest
    from mt.files.output import check_writable, open_output

    prefix = [] if options.prefix is None else [options.prefix]
    check_readable([*options.input, *prefix])
    if options.output is not None:
        check_writable(options.output)
    lines: Iterable[str] = read_lines(options.input)
    more_waiting: Callable[[], bool] | None = None
    if not options.input:
        lines = waiting_lines = WaitingLines(_standard_input())
        more_waiting = waiting_lines.more_waiting
    read = text_digest(options.input) if options.input else None
    begun = text_digest(prefix)
    if prefix and read and begun and begun.lines != read.lines:
        raise UserError(
            f"{options.prefix} has {begun.lines} lines and the input {read.lines}; give one prefix a line, an empty "
            "one where there is none"
        )
    threads = use_threads(options.threads)
    from mt.decoding.translator import WINDOW

    translator = _translator(options, threads)
    search = {name: getattr(options, name) for name in _SEARCH}
    fingerprint = _fingerprint(translator, read, begun, options)
    numbered = options.format == "text" and options.nbest > 1
    too_long = _TooLong(translator.loaded.config.decode.max_length, options.overlong)
    with (
        open_output(options.output, fingerprint, window=WINDOW, numbered=numbered) as output,
        flagged_lines(options.flagged, options.flag_below, output.kept) as flagged,
    ):
        records = translator.translate(
            islice(lines, output.kept, None),
            prefixes=islice(read_lines(prefix), output.kept, None) if prefix else None,
            first_line=output.kept,
            overlong=options.overlong,
            alignments=options.alignments,
            processes=threads if options.engine == "torch" and _on_cpu(translator) else 1,
            more_waiting=more_waiting,
            on_cut=too_long.add,
            token_scores=options.format == "jsonl" or options.flag_below is not None,
            **search,
        )
        for record in _shown(records, options, read.lines if read else None, output.kept):
            if flagged is not None:
                flagged.add(record)
            output.write(record["line"], _formatted(record, options).encode("utf-8"))
    too_long.warn()
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        description="Translates one sentence a line. Every line of the input, blank ones too, gives one line of "
        "output\nin the same place. On a terminal, or from a slow pipe, each line is answered at once. What stands in\n"
        "F.partial when --output F is interrupted or killed is kept: the same command goes on there.",
        example="translate.py runs/demo --input news.de --output news.en --beam 5",
    )
    add_model(parser)
    parser.add_argument(
        "--input",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="F",
        help="text files, plain or gzip, one after the other (default: standard input)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="F",
        help="file to write, packed where its name ends in .gz (default: standard output)",
    )
    parser.add_argument(
        "--prefix",
        type=Path,
        metavar="F",
        help="file, plain or gzip, of as many lines as the input: the whole words that each line's translation begins "
        "with; an empty line leaves the choice",
    )
    parser.add_argument(
        "--ensemble",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="MODEL2",
        help="further models of the same vocabulary: the mean of all models' probabilities translates; confidence is "
        "not recalibrated",
    )
    parser.add_argument("--beam", type=positive, help="hypotheses kept (default: as the model's config says)")
    parser.add_argument(
        "--nbest",
        type=positive,
        default=1,
        metavar="N",
        help="up to N different translations of each line, best first; as text one a line: "
        "LINE ||| TRANSLATION ||| SCORE, lines counted from 0",
    )
    parser.add_argument(
        "--length_penalty",
        choices=["none", "average", "gnmt", "reward"],
        help="what scores are divided by; reward: A is added for each token",
    )
    parser.add_argument("--length_alpha", type=float, metavar="A", help="exponent of the length penalty, or the reward")
    parser.add_argument(
        "--format",
        choices=["text", "jsonl"],
        default="text",
        help="jsonl: one object a line, with score, confidence, tokens and their log-probabilities",
    )
    parser.add_argument(
        "--overlong",
        choices=["split", "cut"],
        default="split",
        help="lines of more tokens than the model's config allows: split into sentences that are translated one by "
        "one and joined (the default), or cut",
    )
    parser.add_argument(
        "--alignments",
        action="store_true",
        help="with jsonl: source_tokens, and alignment, pairs [source token, target token] counted from 0, from the "
        "attention of the last decoder layer but one",
    )
    parser.add_argument(
        "--flag_below",
        type=float,
        metavar="C",
        help="mark translations whose confidence is below C, which tools/calibrate.py finds: a tab, FLAG, a tab and "
        'the confidence after the text; "flagged" in jsonl',
    )
    parser.add_argument(
        "--flagged",
        type=Path,
        metavar="F",
        help="with --flag_below: leave the text as it is, and write the flagged lines to this file, by tabs: number "
        "from 1, confidence, source, translation",
    )
    parser.add_argument("--batch_tokens", type=positive, help="most positions of a batch, beams included")
    parser.add_argument(
        "--engine",
        choices=["torch", "ctranslate2"],
        default="torch",
        help="what searches; ctranslate2 (pip install ctranslate2) gets the model exported on first use",
    )
    parser.add_argument(
        "--compute_type",
        choices=["float32", "bfloat16", "int8"],
        default="float32",
        help="numbers to compute with (default: float32); bfloat16 (torch) is for GPUs, int8 (ctranslate2) for "
        "processors: both are faster and may differ in some words",
    )
    add_search(parser)
    return parser


def _translator(options: argparse.Namespace, threads: int) -> Translator:
    if options.engine == "torch":
        if options.compute_type == "int8":
            raise UserError("--compute_type int8: only CTranslate2 has it; add --engine ctranslate2")
        return load(options.model, options.device, options.ensemble, options.compute_type)
    for name in ("prefix", "ensemble"):
        if getattr(options, name):
            raise UserError(f"--{name}: --engine ctranslate2 cannot honour it; use --engine torch")
    from mt.decoding.translator import Translator
    from mt.interop.ctranslate2_engine import CTranslate2Engine
    from mt.interop.ctranslate2_export import import_ctranslate2
    from mt.model.directory import load_model

    import_ctranslate2()  # before anything is loaded in vain
    loaded = load_model(options.model, options.device)
    return Translator(loaded, CTranslate2Engine(loaded, threads, options.compute_type))


def _on_cpu(translator: Translator) -> bool:
    return translator.loaded.model.output_weight.device.type == "cpu"


def _standard_input() -> int:
    try:
        return sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):
        raise UserError("standard input is closed; give a file with --input") from None


def _fingerprint(
    translator: Translator, read: TextDigest | None, begun: TextDigest | None, options: argparse.Namespace
) -> dict[str, Any] | None:
    """What the output depends on; None where the input, or the prefixes, can be read only once."""
    if read is None or begun is None:
        return None
    from mt.decoding.options import search_options
    from mt.decoding.translator import WINDOW
    from mt.files.output import folder_digest
    from mt.model.directory import model_directory

    loaded = translator.loaded
    folders = [loaded.folder, *(model_directory(each) for each in options.ensemble)]
    search = search_options(loaded.config.decode, **{name: getattr(options, name) for name in _SEARCH})
    return {
        "model": "+".join(map(folder_digest, folders)),
        "input": read._asdict(),
        "prefix": begun._asdict(),
        "options": {
            **asdict(search),
            **{name: getattr(options, name) for name in _FORMATTING},
            "flagged": options.flagged is not None,
            "window": WINDOW,
        },
    }


def _shown(
    records: Iterator[dict[str, Any]], options: argparse.Namespace, total: int | None, kept: int
) -> Iterator[dict[str, Any]]:
    """Counts the records on a progress bar, unless the lines themselves go to or come from the terminal."""
    if (options.output is None and sys.stdout.isatty()) or (not options.input and sys.stdin.isatty()):
        yield from records
        return
    with progress_bar(total, "translate", "line", initial=kept) as bar:
        for record in records:
            yield record
            bar.update(1)


def _formatted(record: dict[str, Any], options: argparse.Namespace) -> str:
    """The record as lines of output, each with its line feed."""
    from mt.files.flagged import is_flagged

    flag = options.flag_below is not None and is_flagged(record, options.flag_below)
    if options.format == "jsonl":
        from mt.decoding.records import json_line

        return json_line(record if options.flag_below is None else {**record, "flagged": flag}) + "\n"
    if options.nbest == 1:
        mark = f"\tFLAG\t{record['confidence']:.4f}" if flag and options.flagged is None else ""
        return f"{record['translation']}{mark}\n"
    return "".join(
        f"{record['line']} ||| {output['translation']} ||| {output['score']}\n" for output in record["nbest"]
    )


def _check_flagging(options: argparse.Namespace) -> None:
    if options.flagged is not None and options.flag_below is None:
        raise UserError("--flagged: needs --flag_below, the confidence below which a line is flagged")
    if options.flag_below is None:
        return
    if not 0 <= options.flag_below <= 1:
        raise UserError(f"--flag_below is {options.flag_below}; confidence lies between 0 and 1")
    if options.nbest > 1 and options.format == "text" and options.flagged is None:
        raise UserError("--flag_below: n-best lists as text have no place for marks; add --flagged F or --format jsonl")
    if options.flagged is not None:
        from mt.files.output import check_writable

        check_writable(options.flagged)


class _TooLong:
    """Counts the lines that are longer than the model takes."""

    def __init__(self, longest: int, overlong: str) -> None:
        self.longest, self.overlong = longest, overlong
        self.count, self.named = 0, list[int]()

    def add(self, line: int) -> None:
        """Counts the line with this number, from 0."""
        self.count += 1
        if len(self.named) <= _NAMED_LINES:
            self.named.append(line + 1)

    def warn(self) -> None:
        """Tells how many there were, if any."""
        if not self.count:
            return
        done = "cut" if self.overlong == "cut" else "split into sentences, translated one by one,"
        named = ", ".join(map(str, self.named[:_NAMED_LINES])) + ", ..." * (self.count > _NAMED_LINES)
        log_line(
            f"warning: lines {done} because they are longer than {self.longest} tokens (decode.max_length): "
            f"{self.count}, counted from 1 these: {named}"
        )
