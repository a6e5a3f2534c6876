"""YAML means the same to every reader, or is refused in one line; nothing in it can fill the memory."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import example, given

from mt.errors import UserError
from mt.files.yaml_file import read_yaml, yaml_text


def error_of(text: str) -> str:
    with pytest.raises(UserError) as raised:
        read_yaml(text, "x.yaml")
    message = str(raised.value)
    assert "\n" not in message and message.startswith("x.yaml") and len(message) < 300
    return message


@pytest.mark.parametrize(
    "text",
    [
        *("010", "-010", "0o17", "0b1", "0b_", "1_000", "1_0.5", "1:30:00", "1:30.5", "08", "no", "yes", "On", "off"),
        *("2024-01-01", "2024-13-45", "2024-01-01 10:00:00", "=", "<<", "-0x1F"),
        *("!!int abc", "!!int 0b_", "!!float x", "!!str 5", "!!binary aGk=", "!!bool no", '!!int "5"', "!x y"),
    ],
)
def test_what_two_readers_read_differently_is_refused_with_its_line(text: str) -> None:
    assert "read in two ways" in error_of(f"a: 1\nb: {text}\n")
    assert ", line 2: " in error_of(f"a: 1\nb: {text}\n")
    assert "read in two ways" in error_of(f"- [{text}]")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("a:", {"a": None}),
        ("[true, False, 'no', \"010\", none, n, nan]", [True, False, "no", "010", "none", "n", "nan"]),
        ("[5, -5, 0, 0x1F, 1e-3, 1.0e-3, .5, 1E5, 2.]", [5, -5, 0, 31, 1e-3, 1e-3, 0.5, 1e5, 2.0]),
        ("[.inf, -.INF]", [float("inf"), float("-inf")]),
        (
            "a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\ne: *x",
            {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}},
        ),
        ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
    ],
)
def test_what_all_read_alike_is_taken(text: str, value: Any) -> None:
    assert read_yaml(text, "x.yaml") == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", ", line 2: the key 'a' stands twice"),
        ("{1: 2}", "the key 1 is no text"),
        ("{[a, b]: 2}", "is no text"),
        ("? {a: 1}\n: 2", "is no text"),
        ("{null: 2}", "the key None is no text"),
        ("!!set {a, b}", "the tag set is not taken"),
        ("!!map [a]", "the tag map is not taken"),
        ("!!seq {a: b}", "the tag seq is not taken"),
        ("!!omap [a: 1]", "the tag omap is not taken"),
        ("!!python/object:os.system {}", "the tag python/object:os.system is not taken"),
        ("{<<: 5}", "<< takes over"),
        ("[&x {b: 1}, {<<: [*x, *x]}]", "<< takes over"),
        ("a: [", "not valid YAML"),
        ("\ta: 1", "not valid YAML"),
        ("a: *nowhere", "not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a\x00: 1", "not valid YAML"),
        ("9" * 5000, "is read in two ways, as int and as float"),  # more digits than any reader takes
        ("0x" + "f" * 5000, "is read in two ways, as int and as str"),
        ("[" * 3000, "nested too deep"),
        ("[" * 3000 + "]" * 3000, "nested too deep"),
        ("{a: " * 3000, "nested too deep"),
        ("&a [*a]", "an alias stands inside of what it names"),
        ("&a {b: *a}", "an alias stands inside of what it names"),
        ("a: &a\n  <<: *a", "an alias stands inside of what it names"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, words: str) -> None:
    assert words in error_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "\n".join(f"a{level}: &a{level} [{f'*a{level - 1}, ' * 10}]" for level in range(1, 9)),
        "a0: &a0 {x: x}\n"
        + "\n".join(
            f"a{level}: &a{level} {{{', '.join(f'k{key}: *a{level - 1}' for key in range(9))}}}"
            for level in range(1, 9)
        ),
        f"a: &a {'x' * 10_000}\nb: [{', '.join(['*a'] * 1000)}]",
    ],
    ids=["lists", "mappings", "text"],
)
def test_aliases_that_grow_are_refused_at_once(text: str) -> None:
    before = time.process_time()
    assert "aliases written out" in error_of(text)
    assert time.process_time() - before < 10  # seconds, on a busy machine


plain = st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False)
text = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["no", "1e5", "08", "0o17", "1_000", "1:30", "2024-01-01", "", "~", "<<", "=", ".5e3", "-.5", "+.inf", "+1", "0x1F"]
)


@example({"\x85": ["\x85"]})
@given(st.recursive(plain | text, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=8))
def test_what_is_written_is_read_alike_by_both_versions(tree: Any) -> None:
    written = yaml_text(tree)
    assert read_yaml(written, "x.yaml") == tree  # which refuses what the two read differently
    assert yaml.safe_load(written) == tree
