"""`mt serve MODEL`: a page to try a model on, and a server that programs for LibreTranslate can ask."""

from __future__ import annotations

import errno
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from mt.cli.main import DONE, CommandParser, add_model, add_search, number, positive
from mt.cli.translate import FIGURES, SEARCH, add_engine, add_flags, check_flags, open_translator
from mt.config_file import search_config
from mt.errors import UserError
from mt.processes import available_cores
from mt.progress import log_line, say
from mt.settings import within

if TYPE_CHECKING:
    from mt.decoding.translator import Translator

_OPTIONS = [name for name in SEARCH if name != "nbest"]  # each request says how many it wants


def main(arguments: list[str] | None = None) -> int:
    """Serves a model until it is told to end."""
    options = _parser().parse_args(arguments)
    check_flags(options)
    if options.engine == "auto" and options.compute_type == "int8":
        options.engine = "ctranslate2"  # no line is there to compare engines on
    translator = open_translator(options, options.threads or available_cores(), list)
    check_flags(options, translator)
    search = {name: getattr(options, name) for name in _OPTIONS}
    chosen = search_config(translator.loaded.config.decode, **search)  # raises what is wrong with it
    from mt.serving.batching import Batcher
    from mt.serving.protocol import Terms
    from mt.serving.server import Server

    data = translator.loaded.config.data
    figure, least = FIGURES[options.flag_by], options.flag_below
    terms = Terms(
        data.source_language,
        data.target_language,
        options.max_characters,
        most_alternatives=(chosen.candidates or chosen.beam) - 1,
        flagged=None if least is None else lambda record: figure(record) < least,
    )
    batcher = Batcher(
        lambda lines, nbest: [*translator.translate(lines, nbest=nbest, **search)], options.max_waiting
    )
    try:
        server = Server(options.host, options.port, terms, batcher, _page(options, translator), options.access_log)
    except OSError as error:
        remedy = "choose another --port" if error.errno == errno.EADDRINUSE else "choose another --host or --port"
        raise UserError(f"{options.host}, port {options.port}: {error.strerror}; {remedy}") from None
    if options.chosen:
        log_line(options.chosen)
    say(f"{terms.source} to {terms.target} by {translator.loaded.folder} at {server.url} (Ctrl-C ends)")
    if server.hosts is None:
        log_line("note: whoever reaches this address can use it, unencrypted; docs/serving.md says what to put before it")
    server.serve()
    return DONE


def _page(options: Namespace, translator: Translator) -> str:
    from mt.corpus.languages import language_name
    from mt.report.page import environment

    data = translator.loaded.config.data
    page: str = environment().get_template("serve.html.j2").render(
        model=options.model.resolve().name,
        source=data.source_language,
        target=data.target_language,
        source_name=language_name(data.source_language),
        target_name=language_name(data.target_language),
        calibrated=translator.confidence is not None,
        most_characters=options.max_characters,
    )
    return page


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Serves a model: a page where one types a sentence and sees its translation, shaded by confidence, "
        "and\nLibreTranslate's protocol for programs. Only this machine reaches it, unless --host says otherwise.",
        example="serve.py runs/demo --port 5001",
    )
    add_model(parser)
    add: Any = parser.add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: 127.0.0.1; 0.0.0.0: everywhere)")
    add("--port", type=number(int, within(0, 65535)), default=5000, metavar="N", help="default: 5000; 0: any free one")
    add("--max_characters", type=positive, default=5000, metavar="N", help="longest request (default: 5000)")
    words = "requests that may wait, before others are refused (default: 100)"
    add("--max_waiting", type=positive, default=100, metavar="N", help=words)
    add("--access_log", action="store_true", help="a line for each request, without its text, on standard error")
    add_flags(parser, '"flagged" in the answer')
    add_engine(parser)
    parser.set_defaults(token_scores=True, nbest=None, prefix=[], ensemble=[])
    add_search(parser.add_argument_group("search (default: as the model's config says)"), _OPTIONS)
    return parser
