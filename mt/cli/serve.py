"""`serve MODEL`: a page to try a model on, and a server for programs that speak LibreTranslate's protocol."""

from __future__ import annotations

from mt.cli.main import DONE, CommandParser, add_model, add_search, number, positive
from mt.cli.translate import FIGURES, SEARCH, add_engine, add_flags, check_flags, open_translator
from mt.config_file import search_config
from mt.errors import UserError
from mt.processes import available_cores
from mt.progress import log_line, say
from mt.settings import within

_SEARCH = [name for name in SEARCH if name != "nbest"]  # each request says how many it wants


def main(arguments: list[str] | None = None) -> int:
    """Serves a model until it is told to end."""
    options = _parser().parse_args(arguments)
    check_flags(options)
    if options.engine == "auto" and options.compute_type == "int8":
        options.engine = "ctranslate2"  # there is no line yet to compare engines on
    translator = open_translator(options, options.threads or available_cores(), list)
    check_flags(options, translator)
    data, search = translator.loaded.config.data, {name: getattr(options, name) for name in _SEARCH}
    decode = search_config(translator.loaded.config.decode, **search)
    from mt.corpus.languages import language_name
    from mt.report.page import environment
    from mt.serving.batching import Batcher
    from mt.serving.protocol import Terms
    from mt.serving.server import Server

    figure, least = FIGURES[options.flag_by], options.flag_below
    terms = Terms(
        data.source_language,
        data.target_language,
        options.max_characters,
        (decode.candidates or decode.beam) - 1,
        None if least is None else lambda record: figure(record) < least,
    )
    page = environment().get_template("serve.html.j2")
    names = {"source_name": language_name(terms.source), "target_name": language_name(terms.target)}
    shown = page.render(model=options.model.resolve().name, calibrated=translator.confidence, terms=terms, **names)
    batcher = Batcher(lambda lines, nbest: [*translator.translate(lines, nbest=nbest, **search)], options.max_waiting)
    try:
        server = Server(options.host, options.port, terms, batcher, shown, options.access_log)
    except OSError as error:
        remedy = "give another --host or --port"
        raise UserError(f"{options.host}, port {options.port}: {error.strerror}; {remedy}") from None
    if options.chosen:
        log_line(options.chosen)
    if server.hosts is None:
        log_line("note: whoever reaches this address can use it, unencrypted (docs/serving.md)")
    say(f"{terms.source} to {terms.target}, {translator.loaded.folder}: {server.url} (Ctrl-C ends)")
    server.serve()
    return DONE


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Serves a model: a page where one types a sentence and sees its translation, shaded by confidence, "
        "and\nLibreTranslate's protocol for programs. Only this machine reaches it, unless --host says otherwise.",
        example="runs/demo --port 5001",
    )
    add_model(parser)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="A",
        help="address to listen at (default: 127.0.0.1; everywhere: 0.0.0.0)",
    )
    add("--port", type=number(int, within(0, 65535)), default=5000, metavar="N", help="default: 5000; 0: any free one")
    add("--max_characters", type=positive, default=5000, metavar="N", help="longest request (default: 5000)")
    words = "requests that may wait; further ones are refused (default: 100)"
    add("--max_waiting", type=positive, default=100, metavar="N", help=words)
    add("--access_log", action="store_true", help="a line for each request, without its text, on standard error")
    add_flags(parser, '"flagged" in the answer')
    add_engine(parser)
    parser.set_defaults(token_scores=True, nbest=None, prefix=[], ensemble=[])
    add_search(parser.add_argument_group("search (default: as the model's config says)"), _SEARCH)
    return parser
