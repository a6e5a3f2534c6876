"""YAML that means the same to every reader: what YAML 1.1 and YAML 1.2 read differently is refused, with its line.

To YAML 1.1 `no` is false, `010` is 8, `1:30:00` is 5400 and `2024-01-01` a date; to YAML 1.2 they are two texts, 10 and
a text. Aliases and merges are taken, within bounds; tags are not.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from mt.errors import UserError

_TAG = "tag:yaml.org,2002:"
_CORE = {  # YAML 1.2.2, section 10.3.2
    "null": re.compile(r"(null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
}
_DIGITS = 40  # of a whole number
_MOST = 1_000_000  # values and characters of a text, aliases written out: a few lines of them could fill the memory


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as the text that it is."""


for _name, _pattern in _CORE.items():
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, None)


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
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{place}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{place}: not valid YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: is nested too deep, or an alias stands inside of what it names") from None


class _Reader:
    def __init__(self, place: str) -> None:
        self.place, self.size = place, 0

    def wrong(self, node: yaml.Node, what: str) -> UserError:
        return UserError(f"{self.place}, line {node.start_mark.line + 1}: {what}")

    def value(self, node: yaml.Node) -> Any:
        self.size += 1 + len(node.value)
        if self.size > _MOST:
            raise self.wrong(node, f"more than {_MOST:,} values and characters, aliases written out")
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            raise self.wrong(node, f"the tag {_shown(node.tag)} is not taken; leave it out")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item) for item in node.value]
        merged, tree = dict[str, Any](), dict[str, Any]()
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":  # <<: *anchor, or a list of them, whose first one counts most
                for part in reversed(value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]):
                    if not isinstance(part, yaml.MappingNode):
                        raise self.wrong(part, "<< takes over `key: value` lines only")
                    merged |= self.value(part)
                continue
            key = self.value(key_node)
            if not isinstance(key, str):
                raise self.wrong(key_node, f"the key {str(key)[:80]} is no text; put it in quotes")
            if key in tree:
                raise self.wrong(key_node, f"the key {key!r} stands twice")
            tree[key] = self.value(value_node)
        return {**merged, **tree}

    def scalar(self, node: yaml.ScalarNode) -> Any:
        text, plain = node.value, node.style is None
        kind = next((name for name, form in _CORE.items() if form.match(text)), "str") if plain else "str"
        octal = kind == "int" and re.match(r"[-+]?0[0-9]", text)
        # 1e-3 is a number without a dot, text to YAML 1.1: nobody means anything else by it
        if octal or (node.tag != _TAG + kind and (kind, node.tag) != ("float", f"{_TAG}str")):
            readings = "as octal and as decimal" if octal else f"as {_shown(node.tag)} and as {kind}"
            remedy = "put text in quotes, write numbers in decimal digits alone, switches as true or false"
            raise self.wrong(node, f"{text[:80]!r} is read in two ways, {readings}: {remedy}")
        match kind:
            case "null":
                return None
            case "bool":
                return text.lower() == "true"
            case "int":
                if len(text) > _DIGITS:
                    raise self.wrong(node, f"{text[:_DIGITS]}... has too many digits")
                return int(text, 0)
            case "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text


def _shown(tag: str) -> str:
    return tag.replace(_TAG, "")[:80]
