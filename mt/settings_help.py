"""The help of settings, from the strings below the fields of their dataclasses."""

from __future__ import annotations

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def descriptions(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass, those that it inherits included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for item, below in zip(definition.body, definition.body[1:]):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                told = isinstance(below, ast.Expr) and ast.literal_eval(below.value)
                found[item.target.id] = " ".join(told.split()) if isinstance(told, str) else ""
    return found


def settings_help(kind: type, prefix: str = "", option: str = "--") -> Iterator[str]:
    """The help of all settings of a section, then of the sections in it, line by line."""
    hints, words, deeper = get_type_hints(kind), descriptions(kind), []
    for item in fields(kind):
        name, inner = prefix + item.name, _section(hints[item.name])
        if inner is not None:
            deeper.append((inner, name + "[]." if get_origin(hints[item.name]) is list else name + "."))
        if not is_dataclass(hints[item.name]):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            shown = "" if default is MISSING else f", default: {_shown(default)}"
            yield f"  {option}{name}"
            text = f"{words.get(item.name, '')} ({_kind(hints[item.name])}{shown})".strip()
            width = min(shutil.get_terminal_size().columns, 120)
            yield textwrap.fill(text, width, initial_indent=" " * 24, subsequent_indent=" " * 24)
    for inner, name in deeper:
        summary = (inner.__doc__ or "").split("\n")[0]
        yield f"\n{name[:-1]}: {summary}"
        yield from settings_help(inner, name, "" if "[]" in name else option)


def _section(hint: Any) -> Any:
    """The dataclass that a setting is made of, or a list of; None for any other."""
    return next((each for each in (hint, *get_args(hint)) if is_dataclass(each)), None)


def _kind(hint: Any) -> str:
    """The type of a setting in words."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is list:
        return "a list"
    return _KINDS.get(hint) or next((_kind(each) for each in get_args(hint)), "a section")


def _shown(value: Any) -> str:
    words = {"None": "none", "True": "true", "False": "false", "": "empty"}
    return words.get(str(value), str(value))
