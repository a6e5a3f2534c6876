"""One reader of lines for all commands: ends of lines, byte order marks, other encodings, packed files, pipes."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.errors import UserError
from mt.files.lines import WaitingLines, check_readable, paired_lines, read_lines, text_digest

BYTES = "eins\r\n\n\u2028zwei\x0b\x85\n\x00drei\nvier".encode()
LINES = ["eins", "", "\u2028zwei\x0b\x85", "\x00drei", "vier"]
MARK = b"\xef\xbb\xbf"


def waiting_lines(path: Path) -> list[str]:
    with path.open("rb") as stream:
        return list(WaitingLines(stream.fileno()))


@given(
    st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]))),
    st.sampled_from([bytes, gzip.compress, bz2.compress, lzma.compress]),
    st.sampled_from(["\n", "\r\n"]),
)
def test_lines_of_any_characters_come_back(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], pack: Callable[[bytes], bytes], end: str
) -> None:
    path = tmp_path_factory.mktemp("lines") / "text"
    content = "".join(line + end for line in lines).encode()
    path.write_bytes(pack(content))
    lines = [line.rstrip("\r") for line in lines]
    if content.startswith(MARK):
        lines[0] = lines[0][1:]
    assert list(read_lines([path])) == lines
    assert waiting_lines(path) == lines


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
        (b"a \r\n\r", ["a ", ""]),
        (b"\ra\rb\r\r\nc\r\n", ["\ra\rb", "c"]),
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
    path.write_bytes(MARK + b"eins\r\nzwei")
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


def test_bad_bytes_of_standard_input_are_replaced_and_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text"
    path.write_bytes(MARK + b"null\n\xff\x00drei\n\xc3\nvier")
    assert waiting_lines(path) == ["null", "\ufffd\x00drei", "\ufffd", "vier"]
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "standard input: line 2 is not UTF-8" in told and "iconv" in told


DAMAGES: list[Callable[[bytes], bytes]] = [
    lambda packed: packed[:2000],
    lambda packed: packed[:-3],
    lambda packed: packed[:1000] + b"????" + packed[1004:],
    lambda packed: packed + b"rest",
    lambda packed: packed + b"\xff" + packed[1:],
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)])
def test_a_damaged_packed_file_is_the_users_error(
    tmp_path: Path, kind: str, pack: Callable[[bytes], bytes], damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "cut"
    path.write_bytes(damage(pack(random.Random(1).randbytes(2500).hex().encode())))
    with pytest.raises(UserError, match=f"cut: damaged {kind} file"):
        list(read_lines([path]))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_file_may_have_several_parts_and_padding(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "text"
    path.write_bytes(pack(b"eins\nzw") + pack(b"ei\n") + bytes(8) + pack(b"drei") + bytes(4))
    assert list(read_lines([path])) == waiting_lines(path) == ["eins", "zwei", "drei"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_lines_of_large_packed_files_are_not_torn(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """bzip2 gives nothing for many blocks of input, and then much at once."""
    generator, path = random.Random(2), tmp_path / "text"
    lines = [generator.randbytes(generator.randint(0, 400)).hex() for _ in range(6000)]
    path.write_bytes(pack("\n".join(lines).encode()))
    assert list(read_lines([path])) == waiting_lines(path) == lines


TEXT = "Ein Hund läuft.\nZwei Katzen sehen ihn an.\n"
TAR = b"a.txt".ljust(257, b"\0") + b"ustar" + b"text\n" * 3000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (TEXT.encode("utf-16"), "UTF-16; convert it: iconv -f UTF-16 "),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "UTF-16; convert it: iconv -f UTF-16 "),
        (TEXT.encode("utf-32"), "UTF-32; convert it: iconv -f UTF-32 "),
        (TEXT.replace("ä", "a").encode("utf-16-le"), "iconv -f UTF-16LE "),
        (TEXT.replace("ä", "a").encode("utf-16-be"), "iconv -f UTF-16BE "),
        ("Иван\nАнна\n".encode("utf-16-le"), "iconv -f UTF-16LE "),
        (b"\x28\xb5\x2f\xfd rest\n", "zstd -d"),
        (b"PK\x03\x04 rest\n", "an archive or a document (zip, tar"),
        (b"%PDF-1.4\nrest\n", "PDF"),
        (TAR, "an archive or a document (zip, tar"),
        (b"text and\0\0\0 other\0\0\0 things\n", "NUL bytes"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_no_utf8_text_is_refused_with_its_remedy(
    tmp_path: Path, content: bytes, words: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "text"
    path.write_bytes(pack(content))
    for name, read in (("text", lambda: list(read_lines([path]))), ("standard input", lambda: waiting_lines(path))):
        with pytest.raises(UserError, match=f"{name}: .*{re.escape(words)}"):
            read()


def test_a_line_longer_than_any_block_comes_whole(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"a" * 3_000_001 + b"\nb\n")
    assert [len(line) for line in read_lines([path])] == [3_000_001, 1]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
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
