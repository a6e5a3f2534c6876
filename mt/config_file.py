"""From a YAML file and dotted options to a checked `Config`, and back.

jsonargparse merges the options over the file and writes the help; names, types and ranges are checked here,
because its own messages run over several lines and do not say which item of a list is wrong. Every error is
a UserError of one line that names the key, its value and what is allowed.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from mt.config import Config
from mt.errors import UserError

LIST_HELP = ("--data.train.help", "--data.valid.help", "--data.test.help")

EXAMPLE = """\
example:
  {call} configs/multi30k-de-en.yaml --data.root corpora --train.max_steps 2000
"""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error instead of silently the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: *anchor
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                problem = f"the key {key!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class _Origin:
    """Where values come from: the config file, and the options that were given on top of it."""

    file: str
    options: Mapping[str, str] = field(default_factory=dict)

    def place(self, path: str) -> str:
        """Where the key `path` was set: in an option that holds it, or in the file."""
        holders = [f"--{key}" for key in self.options if path.startswith((f"{key.removesuffix('+')}[", f"{key}."))]
        return holders[0] if holders else self.file

    def named(self, path: str) -> str:
        """`path` as the user wrote it: an option, or a key and its place."""
        return f"--{path}" if path in self.options else f"{path} in {self.place(path)}"


def parse_config(arguments: list[str], program: str) -> Config:
    """The config of a command line `CONFIG.yaml [--section.key VALUE ...] [--print_config]`.

    Args:
        arguments: the command line without the program's name.
        program: the program's name, for help and errors ("train.py").

    Returns:
        The checked config: the file's values with the options over them.

    Raises:
        UserError: anything that the user has to change, in one line.
        SystemExit: code 0 after `--help` or `--print_config` has printed.
    """
    helps = [argument for argument in arguments if argument in ("-h", "--help", *LIST_HELP)]
    if helps:
        _parser(program).parse_args(helps[:1])
    print_config = "--print_config" in arguments
    file, options = _split([argument for argument in arguments if argument != "--print_config"], program)
    tree = _read_tree(Path(file))
    origin = _Origin(file, options)
    checked = _check_section(Config, tree, "", origin)
    for key, text in options.items():
        _take_option(checked, key, text, origin)
    missing = list(_missing(Config, checked))
    if missing:
        raise UserError(f"missing in {file}: {', '.join(missing)}; add {'it' if len(missing) == 1 else 'them'}")
    config: Config = _build(Config, _merge(checked, origin), "", origin)
    if print_config:
        print(dump_config(config), end="")
        raise SystemExit(0)
    return config


def read_config(path: Path) -> Config:
    """The config in the file `path`, as `dump_config` wrote it or a person did; UserError if it is wrong."""
    origin = _Origin(str(path))
    config: Config = _build(Config, _check_section(Config, _read_tree(path), "", origin), "", origin)
    return config


def dump_config(config: Config) -> str:
    """The whole config as YAML, every default written out; `read_config` reads an equal config back."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True, width=100)


# The command line


def _parser(program: str) -> Any:
    """jsonargparse's parser of all settings; its own reading of config files is not used."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=program,
        usage=f"{program} CONFIG.yaml [--section.key VALUE ...] [--print_config]",
        description="Settings come from CONFIG.yaml; an option --section.key overrides one of them.",
        epilog=EXAMPLE.format(call=f"python {program}" if program.endswith(".py") else program),
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="CONFIG.yaml", help="the config file, if not named alone")
    parser.add_argument("--print_config", action="store_true", help="print the whole config as YAML and exit")
    parser.add_class_arguments(Config, None)
    return parser


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


def _merge(tree: dict[str, Any], origin: _Origin) -> dict[str, Any]:
    """The complete tree: the file's values over the defaults, and the options, in their order, over both."""
    import argparse

    parser = _parser("")
    try:
        options = [f"--{key}={text}" for key, text in origin.options.items()]
        namespace = parser.parse_args(options, namespace=parser.parse_object(tree, defaults=False))
    except argparse.ArgumentError as error:
        raise UserError(str(error)) from None
    merged: dict[str, Any] = namespace.as_dict()
    return {key: value for key, value in merged.items() if key not in ("config", "print_config")}


def _take_option(tree: dict[str, Any], key: str, text: str, origin: _Origin) -> None:
    """Checks an option's value and puts it into the tree; one for a whole section is left to jsonargparse."""
    *sections, name = key.removesuffix("+").split(".")
    annotation: Any = Config
    for section in sections:
        annotation = get_type_hints(annotation)[section]
        tree = tree.setdefault(section, {})
    annotation = get_type_hints(annotation)[name]
    if is_dataclass(annotation):
        return
    value: Any = text
    if annotation is not str:
        with suppress(yaml.YAMLError):
            value = yaml.load(text, _Loader)
    value = _check(annotation, value, key.removesuffix("+"), origin)
    if not key.endswith("+"):
        tree[name] = value


def _missing(kind: Any, tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings without a default that the tree lacks."""
    hints = get_type_hints(kind)
    for item in fields(kind):
        if is_dataclass(hints[item.name]):
            yield from _missing(hints[item.name], tree.get(item.name, {}), f"{prefix}{item.name}.")
        elif _required(item) and item.name not in tree:
            yield prefix + item.name


# The file


def _read_tree(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no config file {path}; check the name") from None
    except OSError as error:
        raise UserError(f"cannot read the config file {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the config file {path} is not UTF-8 text (byte {error.start})") from None
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None


# Names and types


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


def _check_section(kind: Any, value: Any, path: str, origin: _Origin) -> dict[str, Any]:
    """The keys and types of one section of the tree, with defaults left out."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise _wrong(path or "the config", value, "a section of `key: value` lines", origin)
    hints = get_type_hints(kind)
    dot = f"{path}." if path else ""
    for name in value:
        if name not in hints:
            wrong = f"{dot}{name}"
            near = _nearest(wrong, [dot + hint for hint in hints])
            raise UserError(f"unknown key {wrong} in {origin.place(wrong)}{near}")
    return {name: _check(hints[name], item, dot + name, origin) for name, item in value.items()}


def _check(annotation: Any, value: Any, path: str, origin: _Origin) -> Any:
    """`value` as `annotation` wants it (sections stay dictionaries), or a UserError that names `path`."""
    if is_dataclass(annotation):
        return _check_section(annotation, value, path, origin)
    kind, choices = get_origin(annotation), get_args(annotation)
    if kind in (Union, types.UnionType):  # Optional[X] is the only union there is
        inner = next(choice for choice in choices if choice is not type(None))
        return None if value is None else _check(inner, value, path, origin)
    if kind is list:
        if not isinstance(value, list):
            raise _wrong(path, value, "a list", origin)
        items = [_check(choices[0], item, f"{path}[{index}]", origin) for index, item in enumerate(value)]
        _build_value(annotation, items, path, origin)  # items are complete: ranges can be told
        return items
    if kind is Literal:
        if value not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise _wrong(path, value, f"one of {', '.join(map(str, choices))}{hint}", origin)
        return value
    if annotation is float:
        return _number(value, path, origin)
    right = isinstance(value, annotation) and not (annotation is int and isinstance(value, bool))
    if not right:
        allowed = {int: "a whole number", bool: "true or false", str: "text (put it in quotes)"}[annotation]
        raise _wrong(path, value, allowed, origin)
    return value


def _number(value: Any, path: str, origin: _Origin) -> float:
    """A float setting; YAML 1.1 reads 1e-3 as text, which is taken for the number that it looks like."""
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise _wrong(path, value, "a number", origin) from None


def _wrong(path: str, value: Any, allowed: str, origin: _Origin) -> UserError:
    shown = "empty" if value is None else repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return UserError(f"{origin.named(path)} is {shown}; it must be {allowed}")


# Ranges


def _build(kind: Any, tree: Mapping[str, Any], path: str, origin: _Origin) -> Any:
    """The dataclass `kind` from a checked tree, its sections and list items first."""
    hints = get_type_hints(kind)
    dot = f"{path}." if path else ""
    values = {name: _build_value(hints[name], value, dot + name, origin) for name, value in tree.items()}
    for item in fields(kind):
        if _required(item) and item.name not in values:
            raise UserError(f"missing key {dot}{item.name} in {origin.place(dot + item.name)}; add it")
    try:
        return kind(**values)
    except ValueError as error:
        raise UserError(_located(str(error), path, kind, origin)) from None


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _build_value(annotation: Any, value: Any, path: str, origin: _Origin) -> Any:
    if is_dataclass(annotation):
        return _build(annotation, value, path, origin)
    inner = next((choice for choice in get_args(annotation) if is_dataclass(choice)), None)
    if inner is None or value is None:
        return value
    if isinstance(value, list):
        return [_build(inner, item, f"{path}[{index}]", origin) for index, item in enumerate(value)]
    return _build(inner, value, path, origin)


def _located(message: str, path: str, kind: Any, origin: _Origin) -> str:
    """A range error of the dataclass at `path`, with the full key and the place where it was set.

    The dataclasses name a key from their own section on ("cleaning.max_ratio is ..."), or alone inside the
    item of a list ("weight is ...").
    """
    name, _, rest = message.partition(" is ")
    section = path.rpartition(".")[2]
    if name in {item.name for item in fields(kind)}:
        key = f"{path}.{name}" if path else name
    elif section and name.startswith(f"{section}."):
        key = path.removesuffix(section) + name
    elif " " in name:  # about several keys of one item
        return f"{origin.named(path)}: {message}"
    else:
        key = name
    return f"{origin.named(key)} is {rest}"
