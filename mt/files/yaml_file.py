"""YAML that means the same to every reader: what YAML 1.1 and YAML 1.2 read differently is refused, with its line.

To YAML 1.1 `no` is false, `010` is 8, `1:30:00` is 5400 and `2024-01-01` a date; to YAML 1.2 they are two texts, 10 and
a text. Aliases and merges are taken, within bounds; tags are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

from mt.errors import UserError

_TAG = "tag:yaml.org,2002:"
_CORE: dict[str, tuple[str, Callable[[str], Any]]] = {  # plain values: YAML 1.2.2, section 10.3.2
    "null": (r"null|Null|NULL|~|", lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (r"[-+]?[0-9]{1,40}|0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}", lambda text: int(text, 0)),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    ),
    "str": (r"[\s\S]*", str),
}
_MOST = 1_000_000  # values and characters of a text, aliases written out: a few lines of them could fill the memory


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as the text that it is."""

    def represent_str(self, text: str) -> yaml.ScalarNode:
        number = re.fullmatch(f"{_CORE['int'][0]}|{_CORE['float'][0]}", text)
        return self.represent_scalar(f"{_TAG}str", text, '"' if number or "\x85" in text else None)  # else: a space


_Dumper.add_representer(str, _Dumper.represent_str)


def yaml_text(tree: Any) -> str:
    """YAML of dictionaries, lists and plain values; `read_yaml`, and any reader, gives the same back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def read_yaml(text: str, place: str) -> Any:
    """What a YAML text says: dictionaries with text as keys, lists, text, numbers, true, false and None.

    Raises UserError, which names `place` and the line.
    """
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return None if node is None else _Reader(place).value(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, problem = f", line {mark.line + 1}" if mark else "", getattr(error, "problem", None) or error
        raise UserError(f"{place}{line}: not valid YAML: {problem}") from None
    except RecursionError:
        raise UserError(f"{place}: is nested too deep, or an alias stands inside of what it names") from None


class _Reader:
    def __init__(self, place: str) -> None:
        self.place, self.size = place, 0

    def value(self, node: yaml.Node) -> Any:
        self.size += 1 + len(node.value)
        self.require(self.size <= _MOST, node, f"more than {_MOST:,} values and characters, aliases written out")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        tag, mapping = node.tag.removeprefix(_TAG), isinstance(node, yaml.MappingNode)
        self.require(tag == ("map" if mapping else "seq"), node, f"the tag {tag[:80]} is not taken; leave it out")
        return self.mapping(node) if mapping else [self.value(item) for item in node.value]

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        merged, tree = dict[str, Any](), dict[str, Any]()
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":  # <<: *anchor
                taken = self.value(value_node)
                self.require(isinstance(taken, dict), value_node, "<< takes over `key: value` lines of one anchor only")
                merged |= taken
                continue
            key = self.value(key_node)
            self.require(isinstance(key, str), key_node, f"the key {str(key)[:80]} is no text; put it in quotes")
            self.require(key not in tree, key_node, f"the key {key!r} stands twice")
            tree[key] = self.value(value_node)
        return {**merged, **tree}

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text, tag = node.value, node.tag.removeprefix(_TAG)
        forms = _CORE if node.style is None else ("str",)  # quoted: text
        kind = next(name for name in forms if re.fullmatch(_CORE[name][0], text))
        octal = kind == "int" and re.match(r"[-+]?0[0-9]", text)
        # 1e-3 is a number without a dot, text to YAML 1.1: nobody means anything else by it
        alike = not octal and (tag == kind or (tag, kind) == ("str", "float"))
        readings = "octal and as decimal" if octal else f"{tag[:80]} and as {kind}"
        remedy = "put text in quotes, write numbers in decimal digits alone, switches as true or false"
        self.require(alike, node, f"{text[:80]!r} is read in two ways, as {readings}: {remedy}")
        return _CORE[kind][1](text)

    def require(self, condition: bool, node: yaml.Node, otherwise: str) -> None:
        if not condition:
            raise UserError(f"{self.place}, line {node.start_mark.line + 1}: {otherwise}")
