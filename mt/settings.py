"""What a setting is: a field of a frozen dataclass, its help in the string below it, its range in its type.

A value out of range raises ValueError with the name, the value and what is allowed; the command line turns it into
one line with exit code 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias, get_type_hints


class Allowed(NamedTuple):
    """The range of a setting, beside its type."""

    holds: Callable[[Any], bool]
    words: str
    """what an error message says the value must be"""


Count: TypeAlias = Annotated[int, Allowed(lambda value: value >= 1, "at least 1")]
Whole: TypeAlias = Annotated[int, Allowed(lambda value: value >= 0, "0 or more")]
Positive: TypeAlias = Annotated[float, Allowed(lambda value: 0 < value < math.inf, "above 0")]
NotNegative: TypeAlias = Annotated[float, Allowed(lambda value: 0 <= value < math.inf, "0 or more")]
Share: TypeAlias = Annotated[float, Allowed(lambda value: 0 <= value <= 1, "0 to 1")]
BelowOne: TypeAlias = Annotated[float, Allowed(lambda value: 0 <= value < 1, "at least 0 and below 1")]
AboveZero: TypeAlias = Annotated[float, Allowed(lambda value: 0 < value <= 1, "above 0 and at most 1")]


def allowed_values(kind: type) -> dict[str, Allowed]:
    """The range of each setting of a section that has one; None, where the type allows it, is always in range."""
    hints = get_type_hints(kind, include_extras=True)
    # `Count | None` is a union whose member carries the range
    annotated = {name: [hint, *getattr(hint, "__args__", ())] for name, hint in hints.items()}
    return {
        name: found
        for name, parts in annotated.items()
        for part in parts
        for found in getattr(part, "__metadata__", ())
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
