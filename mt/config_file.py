"""From a YAML file and dotted options to a checked `Config`, and back; and the help of all settings.

Names, types and ranges are checked along the dataclasses of `mt.config`. Every error is a UserError of one line that
names the key, its value and what is allowed.
"""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mt import __version__
from mt.config import Config, DecodeConfig, SearchConfig
from mt.errors import UserError, UserTypeError
from mt.files.lines import read_lines
from mt.files.shipped import config_path
from mt.files.yaml_file import read_yaml, yaml_text
from mt.settings import KINDS, settings_help

_SECTION = "a section of `key: value` lines"
_NUMBERS: dict[Any, Any] = {int: Integral, float: Real}  # NumPy's are taken, too
EXAMPLE = """\
usage: {program} CONFIG.yaml [--section.key VALUE ...] [--print_config]

Settings come from CONFIG.yaml, a file or the name of a shipped config; an option --section.key overrides one of them.
A list grows by --section.key+ VALUE, a whole section takes YAML: --train "{{max_steps: 5}}".

options:
  -h, --help            show this help and exit
  --config CONFIG.yaml  the config file, if not named alone
  --print_config        print the whole config as YAML and exit
  --version             print the version and exit
"""


@dataclass(frozen=True)
class _Origin:
    """Where values come from: the config file, and the options that were given on top of it."""

    file: str
    tree: dict[str, Any]
    options: Mapping[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """Where the key `path` was set: in an option that holds it, or in the file."""
        holders = [f"--{key}" for key in self.options if path.startswith((f"{key.removesuffix('+')}[", f"{key}."))]
        return holders[0] if holders else self.file

    def named(self, path: str) -> str:
        """`path` as the user wrote it: an option, or a key and its place."""
        return f"--{path}" if path in self.options else f"{path} in {self.place(path)}"


def parse_config(arguments: list[str], program: str) -> Config:
    """The config of a command line `CONFIG.yaml [--section.key VALUE ...] [--print_config]`, the program's name apart.

    Raises UserError for anything that the user has to change, and SystemExit with code 0 after `--help` or
    `--print_config` has printed.
    """
    if {"-h", "--help"} & set(arguments):
        call = f"python {program}" if program.endswith(".py") else program
        example = f"example:\n  {call} multi30k-de-en --data.root corpora --train.max_steps 2000"
        print(EXAMPLE.format(program=program), *settings_help(Config), example, sep="\n")
        raise SystemExit(0)
    if "--version" in arguments:
        print(f"mt {__version__}")
        raise SystemExit(0)
    print_config = "--print_config" in arguments
    file, options = _split([argument for argument in arguments if argument != "--print_config"], program)
    origin = _Origin(file, _read_tree(config_path(Path(file))), options)
    for key, text in options.items():
        _take_option(origin.tree, key, text, origin)
    _take_over(origin)
    config = _build(Config, origin.tree, "", origin)
    if print_config:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def read_config(path: Path) -> Config:
    """The config in the file `path`, as `dump_config` wrote it or a person did; UserError if it is wrong."""
    tree = _read_tree(path)
    return _build(Config, tree, "", _Origin(str(path), tree))


def search_config(decode: DecodeConfig, **given: Any) -> SearchConfig:
    """How to search: what is given and not None over what the model's config says. Raises UserError."""
    hints, origin = get_type_hints(SearchConfig), _Origin("the call", {})
    for name in given.keys() - hints.keys():
        raise UserTypeError(f"the call has an option {name}; it must be one of {', '.join(hints)}")
    built = {name: _build(hints[name], value, name, origin) for name, value in given.items() if value is not None}
    try:
        return SearchConfig(**vars(decode) | built)
    except ValueError as error:
        raise UserError(str(error)) from None


def dump_config(config: Config) -> str:
    """The whole config as YAML, every default written out; `read_config` reads an equal config back."""
    return yaml_text(asdict(config))


def _split(arguments: list[str], program: str) -> tuple[str, dict[str, str]]:
    """The config file and the options of a command line; the file is named alone or after --config."""
    known = {"config", *_names(Config)}
    options: dict[str, str] = {}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not argument.startswith("-"):
            argument, left = "--config", [argument, *left]
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name.removesuffix("+") not in known:
            section = name.rpartition(".")[0]
            siblings = [key for key in known if key.rpartition(".")[0] == section]
            option = argument.partition("=")[0]
            raise UserError(f"{program}: unknown option {option}{_nearest(name, siblings, '--')}")
        if not equals:
            if not left:
                raise UserError(f"{program}: option --{name} needs a value")
            value = left.pop(0)
        if name == "config" and name in options:
            raise UserError(f"{program}: two config files, {options[name]} and {value}; name one")
        options[name] = value
    file = options.pop("config", "")
    if not file:
        raise UserError(f"{program}: no config file; call {program} CONFIG.yaml, or {program} --help")
    return file, options


def _take_option(tree: dict[str, Any], key: str, text: str, origin: _Origin) -> None:
    """Puts an option's value into the tree: in place of the file's, behind it (`+`), or into a whole section."""
    *sections, name = key.removesuffix("+").split(".")
    annotation: Any = Config
    for depth, section in enumerate(sections, start=1):
        annotation = get_type_hints(annotation)[section]
        inner = {} if tree.get(section) is None else tree[section]
        if not isinstance(inner, dict):
            raise _wrong(".".join(sections[:depth]), inner, _SECTION, origin)
        tree[section] = inner
        tree = inner
    annotation = get_type_hints(annotation)[name]
    value: Any = text if annotation is str else read_yaml(text, f"--{key}")
    if is_dataclass(annotation) and isinstance(value, dict) and isinstance(tree.get(name), dict):
        value = _merged(tree[name], value)
    elif key.endswith("+"):
        value, before = (_as_list(annotation, each) for each in (value, tree.get(name)))
        value = [*before, *value] if isinstance(value, list) and isinstance(before, list) else value
    tree[name] = value


def _as_list(annotation: Any, value: Any) -> Any:
    """One text, or one section, where a list of them is meant."""
    kind = get_args(annotation)[0] if get_origin(annotation) is list else None
    return [value] if isinstance(value, dict if is_dataclass(kind) else str if kind is str else ()) else value


def _merged(tree: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """The settings of the tree with others over them, section by section."""
    both = {name for name in others if isinstance(others[name], dict) and isinstance(tree.get(name), dict)}
    return {**tree, **others, **{name: _merged(tree[name], others[name]) for name in both}}


def _missing(kind: Any, tree: Any, prefix: str = "") -> Iterator[str]:
    """The settings without a default that the tree lacks; items of lists are not entered."""
    hints, tree = get_type_hints(kind), tree or {}
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            yield from _missing(hints[item.name], tree.get(item.name), f"{prefix}{item.name}.")
        elif item.default is MISSING and item.default_factory is MISSING and item.name not in tree:
            yield prefix + item.name


def _take_over(origin: _Origin) -> None:
    """With `train.init_from` tokeniser and shape are that model's, with `train.teacher` the tokeniser is: what is left
    out is taken from its config, what is given must be the same. A run that has begun goes on with its own, wherever
    that model is now."""
    train = origin.tree["train"] if isinstance(origin.tree.get("train"), dict) else {}
    setting = "init_from" if train.get("init_from") else "teacher"
    start = train.get(setting)
    if not start or not isinstance(start, str):
        return
    run = Path(str(origin.tree.get("run_dir")))
    begun = (run / "last").exists() or any(run.glob("checkpoints/step_*"))
    file = (run if begun else Path(start)) / "config.yaml"
    made = asdict(read_config(file))
    if "invisible" not in (_read_tree(file).get("tokenizer") or {}):
        made["tokenizer"]["invisible"] = "keep"  # as versions did that had no such setting
    for section in ("tokenizer", "model") if setting == "init_from" else ("tokenizer",):
        given = origin.tree[section] = {} if origin.tree.get(section) is None else origin.tree[section]
        for name, value in made[section].items() if isinstance(given, dict) else ():
            if name.startswith("sampling") or "dropout" in name:
                continue
            if given.setdefault(name, value) != value:
                place = origin.named(f"{section}.{name}")
                raise UserError(
                    f"{place} is {given[name]!r}, but {file} says {value!r}; leave it out with train.{setting}"
                )


def _read_tree(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"no config file {path}; check the name")
    tree = read_yaml("\n".join(read_lines([path])), str(path))
    if not isinstance(tree, dict | None):
        raise _wrong("the config", tree, _SECTION, _Origin(str(path), tree))
    return tree or {}


def _names(kind: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all sections and settings of a dataclass; items of lists are not entered."""
    for name, annotation in get_type_hints(kind).items():
        yield prefix + name
        if is_dataclass(annotation):
            yield from _names(annotation, f"{prefix}{name}.")


def _nearest(path: str, siblings: Iterable[str], prefix: str = "") -> str:
    """The hint at a sibling of like spelling, else the same name elsewhere, else any like spelling."""
    known = list(_names(Config))
    last = path.rpartition(".")[2]
    near = difflib.get_close_matches(path, list(siblings), n=1, cutoff=0.8)
    near += [name for name in known if name.rpartition(".")[2] == last]
    near += difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    return f"; did you mean {prefix}{near[0]}?" if near else "; --print_config shows all keys"


def _build(annotation: Any, value: Any, path: str, origin: _Origin) -> Any:
    """`value` as `annotation` wants it, sections as their dataclasses, or a UserError that names `path`."""
    if is_dataclass(annotation):
        return _build_section(annotation, value, path, origin)
    kind, choices, value = get_origin(annotation), get_args(annotation), _as_list(annotation, value)
    if kind in (Union, types.UnionType):  # Optional[X] is the only union there is
        return None if value is None else _build(choices[0], value, path, origin)
    if kind is list:
        if not isinstance(value, list):
            raise _wrong(path, value, "a list", origin)
        return [_build(choices[0], item, f"{path}[{index}]", origin) for index, item in enumerate(value)]
    if kind is Literal:
        if value in choices:
            return value
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise _wrong(path, value, f"one of {', '.join(choices)}{hint}", origin)
    allowed = KINDS[annotation] + " (put it in quotes)" * (annotation is str)
    if isinstance(value, bool) != (annotation is bool) or not isinstance(value, _NUMBERS.get(annotation, annotation)):
        raise _wrong(path, value, allowed, origin)
    try:
        if (annotation is str and b"\0" in os.fsencode(value)) or (annotation is int and abs(value) >= 2**63):
            raise ValueError
        return annotation(value)
    except (ValueError, OverflowError):  # what no file can be called, or 64 bits cannot hold
        raise _wrong(path, value, f"{allowed}, of usual size and characters", origin) from None


def _build_section(kind: Any, value: Any, path: str, origin: _Origin) -> Any:
    """The dataclass `kind` from a section of the tree."""
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise _wrong(path, value, _SECTION, origin)
    hints = get_type_hints(kind)
    dot = f"{path}." if path else ""
    for name in value:
        if name not in hints:
            wrong = f"{dot}{name}"
            near = _nearest(wrong, [dot + hint for hint in hints])
            raise UserError(f"unknown key {wrong} in {origin.place(wrong)}{near}")
    sections = {name: None for name, hint in hints.items() if is_dataclass(hint)}
    built = {name: _build(hints[name], item, dot + name, origin) for name, item in {**sections, **value}.items()}
    if missing := list(_missing(kind, value, dot)):
        place = origin.place(missing[0])
        missing = missing if "[" in path else list(_missing(Config, origin.tree))  # of the whole config at once
        raise UserError(f"missing in {place}: {', '.join(missing)}; there is no default, add what is missing")
    try:
        return kind(**built)
    except ValueError as error:
        raise UserError(_located(str(error), path, origin)) from None


def _wrong(path: str, value: Any, allowed: str, origin: _Origin) -> UserError:
    shown = "empty" if value is None else repr(value)[:80]
    return UserError(f"{origin.named(path)} is {shown}; it must be {allowed}")


def _located(message: str, path: str, origin: _Origin) -> str:
    """A range error of the dataclass at `path`, with the full key and the place where it was set."""
    name, _, rest = message.partition(" is ")
    if " " in name:  # about several keys of one section
        return f"{origin.named(path)}: {message}"
    return f"{origin.named(f'{path}.{name}' if path else name)} is {rest}"
