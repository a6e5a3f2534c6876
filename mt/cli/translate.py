"""`translate.py MODEL`: lines in, lines out, same count, same order."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, fields
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt import load
from mt.cli.main import DONE, CommandParser, add_model, add_search, call_of, model_files, number, use_threads
from mt.config import SearchConfig
from mt.config_file import search_config
from mt.errors import UserError
from mt.files.json_file import list_files
from mt.files.lines import TextDigest, WaitingLines, check_equally_many, check_readable, read_lines, text_digest
from mt.files.output import check_apart, check_writable, flagged_lines, open_output, partial_files, standard_output
from mt.processes import available_cores
from mt.progress import log_line, progress_bar
from mt.settings import within

if TYPE_CHECKING:
    from mt.decoding.translator import Translator

_UNSEARCHED = ("max_length", "max_length_ratio", "max_length_extra", "token_scores")
SEARCH = [item.name for item in fields(SearchConfig) if item.name not in _UNSEARCHED]  # the others are options
FIGURES: dict[str, Callable[[dict[str, Any]], float]] = {
    "confidence": itemgetter("confidence"),
    "quality": itemgetter("quality"),
    "mean_log_prob": lambda record: sum(record["log_probs"]) / max(1, len(record["log_probs"])),
    "log_prob": lambda record: sum(record["log_probs"]),
}
"""what a line can be flagged by, as its record tells it"""
_FIRST = 16  # lines that an export is checked on
_FORMATTING = ("format", "overlong", "alignments", "flag_below", "flag_by", "bad_below", "engine", "compute_type")
"""further options that the output depends on"""


def main(arguments: list[str] | None = None) -> int:
    """Translates files or standard input."""
    options = _parser().parse_args(arguments)
    _check_options(options)
    options.token_scores = options.format != "text" or options.flag_below is not None
    from mt.decoding.records import Remarks
    from mt.decoding.translator import WINDOW

    _check_files(options)
    check_readable([*options.input, *options.prefix])
    waiting = None if options.input else WaitingLines(sys.stdin.fileno())
    lines = read_lines(options.input) if waiting is None else waiting
    text = text_digest(options.input) if options.input else None
    begun = text_digest(options.prefix)
    if options.prefix and text and begun:
        check_equally_many("the input", text.lines, options.prefix[0], begun.lines)
    threads = options.threads or available_cores()
    first: list[str] = []  # lines that choosing the engine has read
    translator = open_translator(options, threads, partial(_read_first, first, lines, waiting))
    on_cpu = options.engine == "torch" and translator.loaded.model.output_weight.device.type == "cpu"
    check_flags(options, translator)
    # not known where the input, or the prefixes, can be read only once
    fingerprint = _fingerprint(translator, text, begun, options) if text and begun else None
    numbered = options.format == "text" and (options.nbest or 1) > 1
    remarks = Remarks(translator.loaded.tokenizer)
    with ExitStack() as stack:
        output = stack.enter_context(open_output(options.output, fingerprint, window=WINDOW, numbered=numbered))
        if options.flagged:
            flag = stack.enter_context(flagged_lines(options.flagged, options.flag_by, output.kept))
        total = text.lines if text else None
        bar = stack.enter_context(progress_bar(total, "translate", "line", _silent(options), initial=output.kept))
        records = translator.translate(
            islice(chain(first, lines), output.kept, None),
            prefixes=islice(read_lines(options.prefix), output.kept, None) if options.prefix else None,
            first_line=output.kept,
            overlong=options.overlong,
            alignments=options.alignments,
            processes=threads if on_cpu else 1,
            more_waiting=None if waiting is None else waiting.more_waiting,
            token_scores=options.token_scores,
            **{name: getattr(options, name) for name in SEARCH},
        )
        if options.chosen:
            log_line(options.chosen)
        for record in records:
            figure = None if options.flag_below is None else FIGURES[options.flag_by](record)
            flagged = figure is not None and figure < options.flag_below
            if options.flagged and figure is not None and flagged:
                flag(record, figure)
            remarks.add(record)
            output.write(record["line"], _formatted(record, options, figure, flagged).encode("utf-8"))
            bar.update(1)
    if (fit := translator.fit()) and fit["unlike"]:
        log_line(f"note: {fit['text']}")
    done = "cut" if options.overlong == "cut" else "split into sentences, translated one by one,"
    remarks.warn(done, translator.loaded.config.decode.max_length)
    if options.output:
        log_line(f"wrote {options.output}")
    return DONE


def _silent(options: Namespace) -> bool:
    """No bar where the lines themselves go to or come from the terminal, no progress where they go to a program."""
    going = options.output is None and (sys.stdout.isatty() or not sys.stderr.isatty())
    return going or (not options.input and sys.stdin.isatty())


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Translates one sentence a line. Every line of the input, blank ones too, gives one line of "
        "output\nin the same place. On a terminal, or from a slow pipe, each line is answered at once. What stands in\n"
        "F.partial when --output F is interrupted or killed is kept: the same command goes on there.",
        example="runs/demo --input news.de --output news.en --beam 5",
    )
    add_model(parser)
    add = parser.add_argument
    files: dict[str, Any] = {"type": Path, "nargs": "+", "action": "extend", "default": []}
    add("--input", metavar="F", help="text files, plain or packed: gzip, bzip2, xz (default: standard input)", **files)
    add("--output", type=Path, metavar="F", help="file to write, F.gz: packed (default: standard output)")
    words = "text: a line each, with --nbest LINE ||| TRANSLATION ||| SCORE, lines counted from 0 (the default); "
    words += "jsonl: one object a line, with score, confidence, tokens and their log-probabilities"
    words += "; wmt_qe: translation, confidence and OK/BAD tags of its words and its end, by tabs"
    add("--format", choices=["text", "jsonl", "wmt_qe"], default="text", help=words)
    words = "with wmt_qe: a word is BAD where the confidence in one of its tokens is below this (default: 0.5)"
    add("--bad_below", type=number(float, within(0, 1)), default=0.5, metavar="C", help=words)
    words = "file of as many lines as the input: the whole words that each line's translation begins with, or nothing"
    add("--prefix", type=Path, nargs=1, default=[], metavar="F", help=words)
    words = "further models of the same vocabulary: the mean of all probabilities counts, and is not recalibrated"
    add("--ensemble", metavar="MODEL2", help=words, **files)
    words = "lines of more tokens than the model's config allows: split into sentences (the default), or cut"
    add("--overlong", choices=["split", "cut"], default="split", help=words)
    words = "with jsonl: source_tokens, and alignment: pairs [source token, target token], from 0, told by attention"
    add("--alignments", action="store_true", help=words)
    add_flags(parser, 'a tab, FLAG, a tab and the figure after the text; "flagged" in jsonl')
    words = "with --flag_below: leave the text as it is, and write the flagged lines to this file, by tabs: number "
    add("--flagged", type=Path, metavar="F", help=words + "from 1, figure, source, translation")
    add_engine(parser)
    add_search(parser.add_argument_group("search (default: as the model's config says)"), SEARCH)
    return parser


def add_flags(parser: CommandParser, mark: str) -> None:
    """--flag_below and --flag_by; `mark`: what a flagged translation gets."""
    add = parser.add_argument
    words = f"mark translations below this figure, which calibrate finds: {mark}"
    add("--flag_below", type=number(float, within(-1e9, 1e9)), metavar="C", help=words)
    words = "which figure: confidence (mean of the tokens', 0..1; the default), quality (expected chrF, 0..100), "
    words += "mean_log_prob or log_prob (of the model's own, nats: mean and sum over tokens)"
    add("--flag_by", choices=[*FIGURES], default="confidence", help=words)


def add_engine(parser: CommandParser) -> None:
    """--engine and --compute_type."""
    add = parser.add_argument
    words = "what searches: auto (the default) takes ctranslate2 (pip install ctranslate2), which gets the model "
    words += "exported on first use, where that does all that is asked for, the same, and faster; else torch"
    add("--engine", choices=["auto", "torch", "ctranslate2"], default="auto", help=words)
    words = "float32 (default); faster, with other words now and then: bfloat16 on GPUs (torch), int8 (ctranslate2)"
    add("--compute_type", choices=["float32", "bfloat16", "int8"], default="float32", help=words)
    parser.set_defaults(chosen="")


def _check_options(options: Namespace) -> None:
    """Raises UserError for options that do not go together."""
    if not options.input and sys.stdin is None:
        raise UserError("standard input is closed; give a file with --input")
    if options.alignments and options.format != "jsonl":
        raise UserError("--alignments: only JSON lines have a place for them; add --format jsonl")
    unfit = {"--nbest": (options.nbest or 1) > 1, "--prefix": options.prefix, "--flag_below": options.flag_below}
    if options.format == "wmt_qe" and any(unfit.values()):
        raise UserError(f"--format wmt_qe: has no place for {next(filter(unfit.get, unfit))}; leave that out")
    if options.flagged is not None and options.flag_below is None:
        raise UserError("--flagged: needs --flag_below, the figure below which a line is flagged")
    check_flags(options)
    marked = options.flag_below is not None and options.flagged is None
    if marked and (options.nbest or 1) > 1 and options.format == "text":
        raise UserError("--flag_below: n-best lists as text have no place for marks; add --flagged F or --format jsonl")


def check_flags(options: Namespace, translator: Translator | None = None) -> None:
    """Raises UserError for a threshold out of range or, once the model is there, a figure that it does not have."""
    highest = {"confidence": 1, "quality": 100}.get(options.flag_by)
    if options.flag_below is not None and highest and not 0 <= options.flag_below <= highest:
        raise UserError(f"--flag_below is {options.flag_below:g}; {options.flag_by} is 0 to {highest} (see --flag_by)")
    if options.flag_below is not None and options.flag_by == "quality" and translator and not translator.confidence:
        raise UserError(f"--flag_by quality: {options.model} is not calibrated; run {call_of('calibrate')} first")


def _check_files(options: Namespace) -> None:
    """Raises UserError for places that cannot be written, or that are read or written twice."""
    if options.output is None:
        standard_output()
        written = [("standard output", Path("/dev/stdout"))]
    else:
        check_writable(options.output)
        written = [("--output", each) for each in (options.output, *partial_files(options.output))]
    if options.flagged is not None:
        check_writable(options.flagged)
        written.append(("--flagged", options.flagged))
    read = {"--input": options.input or [Path("/dev/stdin")], "--prefix": options.prefix}
    read["a file of MODEL"] = [path for model in (options.model, *options.ensemble) for path in model_files(model)]
    check_apart([(option, path) for option, paths in read.items() for path in paths], *written)


def _read_first(first: list[str], lines: Iterator[str], waiting: WaitingLines | None) -> list[str]:
    """Moves the first lines, of those that wait, to `first`, which it returns."""
    for line in islice(lines, _FIRST):
        first.append(line)
        if waiting is not None and not waiting.more_waiting():
            break
    return first


def open_translator(options: Namespace, threads: int, read_first: Callable[[], list[str]]) -> Translator:
    """The model with the engine asked for. "auto" becomes the one that is chosen, and `chosen` a line about it."""
    from mt.interop.ctranslate2_export import CannotHonour

    if options.engine == "torch" and options.compute_type == "int8":
        raise UserError("--compute_type int8: only CTranslate2 has it; add --engine ctranslate2")
    if options.engine != "torch":
        try:
            return _ctranslate2(options, threads, read_first)
        except CannotHonour as error:
            if options.engine == "ctranslate2" or options.compute_type == "int8":
                raise
            options.engine, options.chosen = "torch", f"engine: torch ({str(error).partition(';')[0]})"
    use_threads(threads)
    return load(options.model, options.device, options.ensemble, options.compute_type)


def _ctranslate2(options: Namespace, threads: int, read_first: Callable[[], list[str]]) -> Translator:
    """Raises CannotHonour for what CTranslate2 cannot do or, unless it was asked for by name, would not do faster."""
    from mt.decoding.translator import Translator
    from mt.interop.ctranslate2_engine import CTranslate2Engine, choose_device, refuse_unknown_options
    from mt.interop.ctranslate2_export import CannotHonour, import_ctranslate2
    from mt.model.directory import load_model

    loaded = load_model(options.model, options.device, at_once=False)
    search = search_config(loaded.config.decode, **{name: getattr(options, name) for name in SEARCH})
    if options.engine == "auto" and options.compute_type == "float32" and (options.token_scores or search.nbest > 1):
        raise CannotHonour("faster where scores are wanted")  # CTranslate2 needs a forced pass of our model besides
    for name in ("prefix", "ensemble"):
        if getattr(options, name):
            raise CannotHonour(f"--{name}: CTranslate2 cannot honour it; use --engine torch")
    library = import_ctranslate2()
    refuse_unknown_options(search)
    engine = CTranslate2Engine(loaded, threads, options.compute_type, choose_device(options.device))
    if options.engine == "auto":
        if not engine.checked:
            ids = loaded.tokenizer.encode_source(read_first())
            engine.check([each for each in ids if 1 < len(each) <= search.max_length])
        options.chosen = f"engine: ctranslate2 {library.__version__}, {options.compute_type}"
        options.engine = "ctranslate2"
    return Translator(loaded, engine, recalibrate=options.token_scores)


def _fingerprint(translator: Translator, text: TextDigest, begun: TextDigest, options: Namespace) -> dict[str, Any]:
    """What the output depends on."""
    from mt.decoding.translator import WINDOW
    from mt.model.directory import model_directory

    loaded = translator.loaded
    folders = [loaded.folder, *(model_directory(each) for each in options.ensemble)]
    search = search_config(loaded.config.decode, **{name: getattr(options, name) for name in SEARCH})
    others = {name: getattr(options, name) for name in _FORMATTING}
    return {
        "model": [list_files(folder / "meta.json") for folder in folders],  # its notes on itself apart
        "input": text._asdict(),
        "prefix": begun._asdict(),
        "options": {**asdict(search), **others, "flagged": options.flagged is not None, "window": WINDOW},
    }


def _formatted(record: dict[str, Any], options: Namespace, figure: float | None, flagged: bool) -> str:
    """The record as lines of output, each with its line feed; `figure`: what lines are flagged by, if they are."""
    from mt.decoding.records import json_line, tagged_line

    if options.format == "wmt_qe":
        return tagged_line(record, options.bad_below) + "\n"
    if options.format == "jsonl":
        return json_line(record if figure is None else {**record, "flagged": flagged}) + "\n"
    if (options.nbest or 1) == 1:
        mark = f"\tFLAG\t{figure:.4f}" if flagged and options.flagged is None else ""
        return f"{record['translation']}{mark}\n"
    outputs = record["nbest"]
    return "".join(f"{record['line']} ||| {each['translation']} ||| {each['score']}\n" for each in outputs)
