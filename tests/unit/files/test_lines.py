from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from mt.errors import UserError
from mt.files.lines import WaitingLines, check_readable, file_lines, paired_lines

BYTES = "eins\r\n\n\u2028zwei\x0b\x85\n".encode() + b"\xff\x00drei\nvier"
LINES = ["eins\r", "", "\u2028zwei\x0b\x85", "\ufffd\x00drei", "vier"]


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.write_bytes(BYTES)
    packed.write_bytes(gzip.compress(BYTES))
    assert list(file_lines([plain])) == LINES
    assert list(file_lines([packed, plain])) == LINES + LINES


@pytest.mark.parametrize(("content", "lines"), [(b"", []), (b"\n", [""]), (b"a\n", ["a"]), (b"a\n\n", ["a", ""])])
def test_a_final_line_feed_adds_no_line(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    assert list(file_lines([path])) == lines
    with path.open("rb") as stream:
        assert list(WaitingLines(stream.fileno())) == lines


def test_a_gzip_file_cut_short_is_the_users_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(os.urandom(5000))[:2000])
    with pytest.raises(UserError, match=r"cut\.gz: broken gzip file"):
        list(file_lines([path]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: cannot be read"):
        check_readable([tmp_path / "nowhere"])


def test_a_pipe_gives_the_same_lines_in_whatever_pieces() -> None:
    reader, writer = os.pipe()
    try:
        lines = WaitingLines(reader)
        for byte in BYTES[:8]:
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


def test_files_of_different_length_are_refused_with_their_counts(tmp_path: Path) -> None:
    source, target = tmp_path / "a.de", tmp_path / "a.en"
    source.write_text("eins\nzwei\n")
    target.write_text("one\ntwo\nthree\nfour\nfive\n")
    pairs = paired_lines(source, target)
    assert [next(pairs), next(pairs)] == [("eins", "one"), ("zwei", "two")]
    with pytest.raises(UserError, match=r"a\.de has 2 lines and .*a\.en has 5"):
        next(pairs)
    with pytest.raises(UserError, match=r"a\.en has 5 lines and .*a\.de has 2"):
        list(paired_lines(target, source))
