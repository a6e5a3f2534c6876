"""Translation memories in TMX (LISA's TMX 1.4b, and 1.1 to 1.3) as a stream of pairs, in memory that does not grow.

Of a unit with several variants in one language the first is taken. Formatting code inside a segment (`bpt`, `ept`,
`it`, `ph`, `ut`) is left out, text that is only marked (`hi`, `mrk`) stays.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn
from xml.parsers import expat

from mt.corpus.languages import tell
from mt.errors import UserError
from mt.files.lines import file_bytes

_CODE = {"bpt", "ept", "it", "ph", "ut"}  # with all that stands in them: subflows (`sub`), too
_EXAMPLES = 5


def read_tmx(path: Path, languages: Sequence[str], lacking: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The pairs of the units that hold both languages; the encoding is told by XML's own rules.

    Args:
        languages: codes of source and target. `de` means `de-AT` and `DE_DE`, too; `de-AT` means only itself.
        lacking: here units that lack a language are counted ("dropped") and the first few shown ("examples").

    Raises:
        UserError: the file is no TMX, is damaged, declares entities, or has no unit in both languages.
    """
    memory, parser = _Memory(path, languages, lacking), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = memory.start, memory.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = memory.add, memory.refuse_entity
    # declared by a DTD elsewhere, which nobody reads: HTML's &nbsp; and the like; others stay as they are written
    parser.SkippedEntityHandler = lambda name, _: memory.add(html.unescape(f"&{name};"))
    try:
        for data in chain(file_bytes(path), [b""]):
            parser.Parse(data, not data)
            yield from memory.pairs
            memory.pairs.clear()
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise UserError(f"{path}: line {error.lineno} is no XML ({reason}); mend the file, or export it anew") from None
    memory.account()


class _Memory:
    """What the parser has come across: a unit with both languages becomes one of `pairs` as soon as it ends."""

    def __init__(self, path: Path, languages: Sequence[str], lacking: dict[str, Any]) -> None:
        self.path, self.languages, self.lacking = path, languages, lacking
        self.pairs: list[tuple[str, str]] = []
        self.found = Counter[str]()  # units by language
        self.units = self.lacked = self.code = 0  # code: how deep inside of it
        self.language, self.unit = "", dict[str, str]()  # the first segment in each language
        self.text: list[str] | None = None  # of the segment that is being read

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tmx":
            self.language = "-"
        elif not self.language:
            raise UserError(f"{self.path}: is no TMX, its first element is <{name[:40]}>; give a TMX file")
        elif name == "tuv":
            self.language = (attributes.get("xml:lang") or attributes.get("lang") or "-").casefold().replace("_", "-")
        elif name == "seg":
            self.text = []
        self.code += name in _CODE

    def end(self, name: str) -> None:
        self.code -= name in _CODE
        if name == "seg" and self.text is not None:
            self.unit.setdefault(self.language, "".join(self.text))
            self.text = None
        elif name == "tu":
            self.units += 1
            self.found.update(self.unit.keys())
            source, target = map(self.variant, self.languages)
            if source is not None and target is not None:
                self.pairs.append((source, target))
            else:
                self.lacked += 1
                if len(self.lacking["examples"]) < _EXAMPLES:
                    self.lacking["examples"].append([(source or "")[:300], (target or "")[:300]])
            self.unit = {}

    def variant(self, language: str) -> str | None:
        wanted = language.casefold().replace("_", "-")
        return next((text for name, text in self.unit.items() if f"{name}-".startswith(f"{wanted}-")), None)

    def add(self, text: str) -> None:
        if self.text is not None and not self.code:
            self.text.append(text)

    def refuse_entity(self, name: str, *_: object) -> NoReturn:
        raise UserError(f"{self.path}: declares an entity, {name[:40]}, which could grow without end; take it out")

    def account(self) -> None:
        """At the end of the file: tells of the units without one of the languages."""
        self.lacking["dropped"] += self.lacked
        of, there = (
            f"{self.path}: of {self.units} units",
            ", ".join(f"{name} {n}" for name, n in self.found.most_common(9)),
        )
        if self.units == self.lacked:
            none = f"{of} none is in both {' and '.join(self.languages)}; there are {there or 'no languages'}"
            raise UserError(f"{none}; name two of them in `columns`")
        if self.lacked:
            tell(f"{of} {self.lacked} lack {' or '.join(self.languages)} and are left out")
