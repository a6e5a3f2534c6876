"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mt.files.atomic import atomic_file, atomic_folder, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_text_keeps_its_line_feeds_and_carriage_returns(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "ä\r\n\u2028b\n")
    assert (tmp_path / "a.txt").read_bytes() == "ä\r\n\u2028b\n".encode()


def test_a_folder_replaces_the_old_one_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("old")
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "new").write_text("new")
        assert names(path) == ["old"]
    assert names(path) == ["inner"]
    assert names(tmp_path) == ["store"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "new").write_text("half")
        raise RuntimeError
    assert names(path) == ["old"]
    assert names(tmp_path) == ["store"]


def test_a_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to("inner/a.txt")
    (tmp_path / "folder").symlink_to("inner")
    for text in ("new", "newer"):
        write_text(tmp_path / "link", text)
        assert (tmp_path / "inner" / "a.txt").read_text() == text
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "b.txt").write_text("b")
    assert names(tmp_path) == ["folder", "inner", "link"] and names(tmp_path / "inner") == ["b.txt"]
    assert (tmp_path / "folder").is_symlink()


def test_a_descriptor_gets_the_whole_content(tmp_path: Path) -> None:
    with (tmp_path / "a").open("w") as stream:
        write_text(Path(f"/dev/fd/{stream.fileno()}"), "ä" * 100_000)
        write_text(Path(f"/dev/fd/{stream.fileno()}"), "end")
    assert (tmp_path / "a").read_text() == "ä" * 100_000 + "end"


def test_an_error_without_a_name_gets_that_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError) as raised, atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "a")
