"""`tools/translate_corpus.py MODEL --input F --output FOLDER`: shards, by processes, Slurm tasks or a Ray cluster."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from dataclasses import asdict
from glob import glob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt.cli.main import DONE, CommandParser, add_search, call_of, model_files, number, positive
from mt.cli.translate import SEARCH, open_translator
from mt.config_file import search_config
from mt.errors import UserError
from mt.files.json_file import list_files
from mt.files.lines import check_readable, read_lines
from mt.files.output import check_apart, check_writable
from mt.processes import available_cores
from mt.progress import log_line, progress_bar, say
from mt.settings import within

if TYPE_CHECKING:
    from mt.bulk.plan import Plan
    from mt.decoding.translator import Translator

_FORMATS = {"text": "txt", "text.gz": "txt.gz", "jsonl": "jsonl", "jsonl.gz": "jsonl.gz", "parquet": "parquet"}
_ASKED = ("format", "overlong", "engine", "compute_type", "device", "lines_per_shard")
_FIRST = 16  # lines that an export is checked on


def main(arguments: list[str] | None = None) -> int:
    """Plans, translates what is missing, joins, or says how far it is."""
    options = _parser().parse_args(arguments)
    _check_options(options)
    from mt.bulk.plan import read_plan
    from mt.bulk.run import join, status, translate_shards

    folder = options.output
    plan = read_plan(folder)
    if options.status or options.join:
        if plan is None:
            raise UserError(f"{folder}: holds no plan.json; give the folder that a translation was begun in")
        if options.model:
            _plan(options, _inputs(options), plan)  # of which another one is refused
        if options.status:
            say(status(plan, folder))
        else:
            _check_join(options, plan)
            join(plan, folder, options.join)
            log_line(f"wrote {options.join}: {plan.lines(range(len(plan.shards))):,} lines")
        return DONE
    paths = _inputs(options)
    plan = _plan(options, paths, plan)
    count, task, tasks = len(plan.shards), options.task or 0, options.tasks or 1
    if options.plan:
        log_line(f"wrote {folder}/plan.json: {plan.lines(range(count)):,} lines in {count} shards")
        return DONE
    options.engine, options.device = plan.engine, plan.device
    numbers = range(task * count // tasks, (task + 1) * count // tasks)  # neighbours, for what packed files cost
    with ExitStack() as stack:
        done = plan.lines(numbers) - plan.lines(plan.missing(folder, numbers))
        bar = stack.enter_context(progress_bar(plan.lines(numbers), "translate", "line", initial=done))
        translate_shards(plan, folder, numbers, *_engine(options, paths, stack, bar.update))
    whole = f"{len(numbers)} shards, {plan.lines(numbers):,} lines, are in {folder}"
    log_line(
        f"{whole}; one file: {call_of()} --output {folder} --join FILE"
        if tasks == 1
        else f"{whole} (task {task} of {tasks})"
    )
    return DONE


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Translates much text in shards: files of so many lines each, written whole and once by whoever is "
        "free.\nKilled, the same command goes on, on one machine or several; another model, input or option is refused."
        "\nThe joined shards are what translate.py gives for the same lines.",
        example="runs/demo --input 'mono/*.gz' --output out\n--output out --status\n--output out --join mono.en",
    )
    add = parser.add_argument
    add("model", type=Path, nargs="?", metavar="MODEL", help="model directory, or run directory (its best model)")
    words = "text files, plain or packed (gzip, bzip2, xz), or patterns such as 'mono/*.gz', sorted by name"
    add("--input", nargs="+", action="extend", default=[], metavar="F", help=words)
    add("--output", type=Path, required=True, metavar="FOLDER", help="folder of the plan and the shards; may be new")
    add("--lines_per_shard", type=positive, default=100_000, metavar="N", help="default: 100000")
    add("--format", choices=_FORMATS, default="text", help="jsonl and parquet: as translate.py --format jsonl")
    words = "worker processes of one thread each, or one for each GPU; with --ray, workers (default: all there are)"
    add("--processes", type=positive, metavar="N", help=words)
    add("--ray", metavar="ADDRESS", help="workers of a Ray cluster: auto, or its address")
    words = "translate the K-th of N parts only, from 0: the tasks of a batch queue"
    add("--task", type=number(int, within(0, 10**6)), metavar="K", help=words)
    add("--tasks", type=positive, metavar="N", help="see --task")
    add("--plan", action="store_true", help="only write the plan, for tasks that begin at once")
    add("--join", type=Path, metavar="FILE", help="write all shards to one file and end; needs only --output")
    add(
        "--status",
        action="store_true",
        help="say how much is done and how long the rest takes, and end; needs only --output",
    )
    add("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    for name, words in (("overlong", "split cut"), ("engine", "auto torch ctranslate2")):
        add(f"--{name}", choices=words.split(), default=words.split()[0], help="see translate.py")
    add("--compute_type", choices=["float32", "bfloat16", "int8"], default="float32", help="see translate.py")
    parser.set_defaults(ensemble=[], prefix=[], search=SEARCH, chosen="")
    add_search(parser.add_argument_group("search (default: as the model's config says)"), SEARCH)
    return parser


def _check_options(options: Namespace) -> None:
    """Raises UserError for options that do not go together; says what records need."""
    if bool(options.model) != bool(options.input) or not (options.model or options.status or options.join):
        raise UserError("give MODEL and --input; --status and --join FILE alone need neither")
    if (options.task is None) != (options.tasks is None):
        raise UserError("--task and --tasks: give both, K from 0 to N - 1")
    if options.tasks and options.task >= options.tasks:
        raise UserError(f"--task is {options.task}; of {options.tasks} tasks it must be 0 to {options.tasks - 1}")
    if options.tasks and options.ray:
        raise UserError("--task: one call with --ray does all tasks; leave one of them out")
    if (options.nbest or 1) > 1 and options.format.startswith("text"):
        raise UserError("--nbest: text has one line for each; add --format jsonl or parquet")
    options.token_scores = not options.format.startswith("text")


def _inputs(options: Namespace) -> list[Path]:
    """The input files, whole paths: other machines may stand elsewhere. Makes the folder of the output."""
    output, paths = options.output.resolve(), []
    for name in options.input:
        found = [name] if Path(name).exists() else sorted(glob(name, recursive=True))
        paths += [Path(each).resolve() for each in found]
        if not found:
            raise UserError(f"--input {name}: no such file; quote a pattern, so that it is read here")
    for path in paths:
        if not path.is_file():
            raise UserError(f"--input {path}: is no file; each is read more than once")
        if output in path.parents:
            raise UserError(f"--input {path}: lies in the folder of --output; give another one")
    check_readable(paths)
    if output in (options.model / "x").resolve().parents:
        raise UserError(f"--output {options.output}: is the folder of MODEL; give another one")
    output.mkdir(parents=True, exist_ok=True)
    return paths


def _check_join(options: Namespace, plan: Plan) -> None:
    """Raises UserError for a name that promises another format, or a file that is read."""
    packed = plan.extension.endswith(".gz")
    if packed != (options.join.suffix == ".gz"):
        what, ending = ("packed", "ending") if packed else ("not packed", "another ending than")
        raise UserError(f"--join {options.join}: the shards are {what}; give a name with {ending} .gz")
    check_writable(options.join)
    shards = [("a shard", plan.target(options.output, number)) for number in range(len(plan.shards))]
    inputs = [("--input", Path(name)) for name in plan.inputs]
    models = [("a file of MODEL", path) for path in model_files(Path(plan.model))]
    check_apart([*shards, *inputs, *models, ("the plan", options.output / "plan.json")], ("--join", options.join))


def _plan(options: Namespace, paths: list[Path], plan: Plan | None) -> Plan:
    """The plan that stands, checked, or a new one. Text that is as it was is not read again."""
    from mt.bulk.plan import Plan, check_plan, cut, read_plan, stamps, write_plan
    from mt.decoding.translator import WINDOW
    from mt.model.directory import load_model

    loaded = load_model(options.model, options.device, at_once=False)
    search = search_config(loaded.config.decode, **{name: getattr(options, name) for name in SEARCH})
    asked = {**asdict(search), **{name: getattr(options, name) for name in _ASKED}, "window": WINDOW}
    fingerprint = {"model": {"files": list_files(loaded.folder / "meta.json")}, "options": asked}
    if plan is not None:
        check_plan(plan, options.output, {**fingerprint, "input": plan.fingerprint["input"]})  # before the text
        if plan.stamps == stamps(paths):
            return plan
    shards, fingerprint["input"] = cut(paths, options.lines_per_shard)
    if plan is None:
        model, inputs = str(loaded.folder.resolve()), list(map(str, paths))
        kind = (*_choose(options, paths), _FORMATS[options.format])
        write_plan(Plan(fingerprint, *kind, model, inputs, stamps(paths), shards), options.output)
        plan = read_plan(options.output)
        assert plan is not None
    check_plan(plan, options.output, fingerprint)
    return plan


def _choose(options: Namespace, paths: list[Path]) -> tuple[str, str]:
    """The engine, where "auto" was asked for the one that is chosen, and the kind of device, cpu or cuda."""
    from mt.interop import ctranslate2_engine
    from mt.model import directory

    options = Namespace(**vars(options))
    open_translator(options, available_cores(), lambda: list(islice(read_lines(paths), _FIRST)))
    if options.chosen:
        log_line(options.chosen)
    if options.engine == "ctranslate2":
        return options.engine, ctranslate2_engine.choose_device(options.device)
    return options.engine, directory.choose_device(options.device).type


def _load(options: Namespace) -> Translator:
    """In a worker: the model, for one thread."""
    return open_translator(options, 1, list)


def _engine(options: Namespace, paths: list[Path], stack: ExitStack, advance: Any) -> Any:
    """What translates, and by how many workers, as far as that is known."""
    from mt.bulk.engines import in_processes, on_cluster
    from mt.bulk.work import Work

    options.model = options.model.resolve()  # processes elsewhere stand in other folders
    work = Work(options.output.resolve(), paths, options, _load)
    processes = options.processes
    if options.ray:
        return stack.enter_context(on_cluster(work, options.ray, processes, advance)), processes or available_cores()
    if not processes and options.device == "cuda":
        import torch

        processes = torch.cuda.device_count()
    processes = processes or available_cores()
    return in_processes(work, processes, advance), processes
