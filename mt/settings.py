"""What a setting is: a field of a frozen dataclass, its help in the string below it, its range in its type.

A value out of range raises ValueError with the name, the value and what is allowed; the command line turns it into
one line with exit code 2.
"""

from __future__ import annotations

import ast
import inspect
import json
import math
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints


class Allowed(NamedTuple):
    """The range of a setting, beside its type."""

    holds: Callable[[Any], bool]
    words: str
    """what an error message says the value must be"""


def within(low: float, high: float) -> Allowed:
    """Both ends included."""
    return Allowed(lambda value: low <= value <= high, f"{low:,} to {high:,}")


Count: TypeAlias = Annotated[int, Allowed(lambda value: value >= 1, "at least 1")]
Whole: TypeAlias = Annotated[int, Allowed(lambda value: value >= 0, "0 or more")]
NotNegative: TypeAlias = Annotated[float, Allowed(lambda value: 0 <= value < math.inf, "0 or more")]
Share: TypeAlias = Annotated[float, within(0, 1)]
BelowOne: TypeAlias = Annotated[float, Allowed(lambda value: 0 <= value < 1, "at least 0 and below 1")]
Seed: TypeAlias = Annotated[int, within(-(10**18), 10**18)]
Threads: TypeAlias = Annotated[int, within(0, 1024)]
AboveZero: TypeAlias = Annotated[float, Allowed(lambda value: 0 < value <= 1, "above 0 and at most 1")]


def dotted(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What nested mappings hold, by full names such as data.root."""
    for name, value in section.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def allowed_values(kind: type) -> dict[str, Allowed]:
    """The range of each setting of a section that has one; None, where the type allows it, is always in range."""
    return {
        name: found
        for name, hint in get_type_hints(kind, include_extras=True).items()
        for part in (hint, *get_args(hint))  # `Count | None` is a union whose member carries the range
        for found in get_args(part)
        if isinstance(found, Allowed)
    }


class Section:
    """What all sections share: ranges are checked when an object is made."""

    def __post_init__(self) -> None:
        for name, allowed in allowed_values(type(self)).items():
            value = getattr(self, name)
            self._require(value is None or allowed.holds(value), name, allowed.words)
        self._check()

    def _check(self) -> None:
        """Raises ValueError where settings do not go together."""

    def _require(self, condition: bool, name: str, allowed: str, value: Any = None) -> None:
        """Raises ValueError unless the condition holds; `value`: what the message shows in place of the setting's."""
        if not condition:
            shown = getattr(self, name, None) if value is None else value
            raise ValueError(f"{name} is {shown!r}; it must be {allowed}")


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def descriptions(kind: type) -> dict[str, str]:
    """What stands below each field of a dataclass, those that it inherits included."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not is_dataclass(owner):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(definition, ast.ClassDef)
        for item, below in zip(definition.body, definition.body[1:]):
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and isinstance(below, ast.Expr):
                found[item.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def settings_help(kind: type, prefix: str = "", option: str = "--") -> Iterator[str]:
    """The help of all settings of a section, then of the sections in it, line by line."""
    hints, words, deeper = get_type_hints(kind), descriptions(kind), list[tuple[Any, str]]()
    for item in fields(kind):
        name, hint = prefix + item.name, hints[item.name]
        for inner in filter(is_dataclass, (hint, *get_args(hint))):
            deeper.append((inner, name + "[]." if get_origin(hint) is list else name + "."))
        if not is_dataclass(hint):
            default = item.default if item.default_factory is MISSING else item.default_factory()
            shown = "" if default is MISSING else f", default: {json.dumps(default)}"
            yield f"  {option}{name}"
            text = f"{words.get(item.name, '')} ({_kind(hint)}{shown})".strip()
            width = min(shutil.get_terminal_size().columns, 120)
            yield textwrap.fill(text, width, initial_indent=" " * 24, subsequent_indent=" " * 24)
    for inner, name in deeper:
        yield f"\n{name[:-1]}: {inner.__doc__.splitlines()[0]}"
        yield from settings_help(inner, name, "" if "[]" in name else option)


def _kind(hint: Any) -> str:
    """The type of a setting in words."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    if get_origin(hint) is list:
        return "a list"
    return KINDS.get(hint) or next((_kind(each) for each in get_args(hint)), "a section")
