"""One reader of lines for all commands: line feeds, byte order marks, bad UTF-8, gzip, pipes."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.errors import UserError
from mt.files.lines import WaitingLines, check_readable, paired_lines, read_lines, text_digest

BYTES = "eins\r\n\n\u2028zwei\x0b\x85\n\x00drei\nvier".encode()
LINES = ["eins\r", "", "\u2028zwei\x0b\x85", "\x00drei", "vier"]
MARK = b"\xef\xbb\xbf"


def waiting_lines(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return list(WaitingLines(stream.fileno()))


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))), st.booleans())
def test_lines_of_any_characters_come_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], compressed: bool
) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    content = "".join(line + "\n" for line in lines).encode()
    if content.startswith(MARK):
        lines[0] = lines[0][1:]
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert list(read_lines([path])) == lines


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.gz", tmp_path / "packed"  # gzip is told by its content
    plain.write_bytes(BYTES)
    packed.write_bytes(gzip.compress(BYTES[:9]) + gzip.compress(BYTES[9:]))
    assert list(read_lines([plain])) == LINES
    assert list(read_lines([packed, plain])) == LINES + LINES


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"a \r\n\r", ["a \r", "\r"]),
        (b"a\n", ["a"]),
        (b"a\n\n", ["a", ""]),
        (MARK, []),
        (MARK + b"\na", ["", "a"]),
        (MARK + b"a\n" + MARK + b"b\n", ["a", "\ufeffb"]),
        (MARK + MARK + b"a", ["\ufeffa"]),
    ],
)
def test_a_final_line_feed_adds_no_line_and_a_byte_order_mark_is_dropped(
    tmp_path: Path, content: bytes, lines: list[str]
) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert list(read_lines([path])) == lines
    assert list(read_lines([path, path])) == lines + lines
    assert waiting_lines(path) == lines
    digest = text_digest([path])
    assert digest is not None and digest.lines == len(lines)


def test_the_digest_is_that_of_the_lines(tmp_path: Path) -> None:
    path, packed = tmp_path / "text", tmp_path / "text.gz"
    path.write_bytes(MARK + b"eins\nzwei")
    packed.write_bytes(gzip.compress(b"eins\nzwei\n"))
    assert text_digest([path]) == text_digest([packed])
    assert text_digest([path]) != text_digest([path, packed])
    path.write_bytes(b"eins\nzwo")
    assert text_digest([path]) != text_digest([packed])
    os.mkfifo(tmp_path / "pipe")
    assert text_digest([path, tmp_path / "pipe"]) is None


@pytest.mark.parametrize("before", [0, 1, 40_000])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_of_a_file_that_is_not_utf8_is_named(tmp_path: Path, before: int, compressed: bool) -> None:
    path = tmp_path / "text"
    content = MARK + "é zeile\n".encode() * before + b"gr\xc3\xbc\xe4n\nmehr\n"
    path.write_bytes(gzip.compress(content) if compressed else content)
    for read in (lambda: list(read_lines([path])), lambda: text_digest([path])):
        with pytest.raises(UserError, match=rf"text: line {before + 1} is not UTF-8 \(byte 5 of the line\); convert"):
            read()


def test_bad_bytes_of_standard_input_are_replaced_and_its_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(MARK + b"\xff\x00drei\n\xc3\nvier")
    assert waiting_lines(path) == ["\ufffd\x00drei", "\ufffd", "vier"]


@pytest.mark.parametrize("damage", [lambda packed: packed[:2000], lambda packed: packed[:30] + b"????" + packed[34:]])
def test_a_damaged_gzip_file_is_the_users_error(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(damage(gzip.compress(random.Random(1).randbytes(2500).hex().encode())))
    with pytest.raises(UserError, match=r"cut\.gz: damaged gzip file"):
        list(read_lines([path]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        check_readable([tmp_path / "nowhere"])


def test_a_pipe_gives_the_same_lines_in_whatever_pieces() -> None:
    reader, writer = os.pipe()
    try:
        lines = WaitingLines(reader)
        for byte in MARK + BYTES[:8]:
            os.write(writer, bytes([byte]))
        assert next(lines) == LINES[0] and next(lines) == LINES[1]
        assert not lines.more_waiting()
        os.write(writer, BYTES[8:])
        assert lines.more_waiting() and next(lines) == LINES[2]
        assert lines.more_waiting() and next(lines) == LINES[3]
        assert not lines.more_waiting()
    finally:
        os.close(writer)
    assert lines.more_waiting() and list(lines) == LINES[4:]
    os.close(reader)


def test_a_slow_pipe_with_a_name_gives_its_lines_as_they_come(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(descriptor, b"eins\nzw")
    lines = read_lines([tmp_path / "pipe"])
    os.write(descriptor, b"ei\n")
    assert next(lines) == "eins" and next(lines) == "zwei"
    os.write(descriptor, b"drei\n")
    assert next(lines) == "drei"
    os.close(descriptor)


@pytest.mark.parametrize(("first", "second"), [("a\nb\n", "a\nb\nc\nd\ne\n"), ("a\nb\nc\n", "a\nb"), ("", "a\n")])
def test_files_of_different_length_are_refused_with_their_counts(tmp_path: Path, first: str, second: str) -> None:
    source, target = tmp_path / "a.de", tmp_path / "a.en"
    source.write_text(first)
    target.write_text(second)
    counts = [len(side.split()) for side in (first, second)]
    pairs = paired_lines(source, target)
    assert [next(pairs) for _ in range(min(counts))] == list(zip(first.split(), second.split()))
    with pytest.raises(UserError, match=rf"a\.de has {counts[0]} lines and .*a\.en has {counts[1]}; they must have"):
        next(pairs)
