"""JSON and what it lists: damage, other forms and Git LFS pointers are one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from mt.errors import UserError
from mt.files.json_file import check_listed, check_no_lfs_pointer, list_files, parse_json, read_json, write_json


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / "list.json"
    write_json(path, {"note": "ü \u2028", "files": list_files(path)})
    return path


def test_what_is_written_is_read_again_and_the_listing_leaves_itself_out(listing: Path) -> None:
    assert read_json(listing, dict[str, Any])["note"] == "ü \u2028"
    assert list_files(listing).keys() == {"a", "empty"}
    assert check_listed(listing, "restore it")


def test_every_flipped_bit_is_an_error_or_leaves_the_content_as_it_was(listing: Path) -> None:
    content, before = listing.read_bytes(), read_json(listing, dict[str, Any])
    for place in range(len(content)):
        for bit in range(8):
            listing.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            try:
                found = read_json(listing, dict[str, Any])
            except UserError as error:
                assert str(listing) in str(error) and "\n" not in str(error)
            else:  # the name of the checksum itself
                assert {name: found[name] for name in ("note", "files")} == {
                    name: before[name] for name in ("note", "files")
                }


@pytest.mark.parametrize("content", [None, b"", b"ab", b"abd", b"abcd"])
def test_a_listed_file_that_is_not_as_it_was_is_named(listing: Path, content: bytes | None) -> None:
    path = listing.parent / "a"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: (was changed or damaged since {listing}|cannot be read).*the remedy"):
        check_listed(listing, "the remedy")


def test_json_without_a_list_is_that_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("{}")
    assert not check_listed(tmp_path / "list.json", "restore it")


@pytest.mark.parametrize(
    "text", ["", "nul", "NaN", "1e400", "-1", '"1"', "1.5", "[" * 5000, "\udc80", "9" * 5000, "\ufeff1", "true"]
)
def test_json_of_another_form_is_one_line(text: str) -> None:
    with pytest.raises(UserError, match="^here: not as expected .*; mend it$"):
        parse_json(text.encode(errors="surrogatepass"), Annotated[int, msgspec.Meta(ge=0)], "here", "mend it")


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    for read in (check_no_lfs_pointer, lambda path: read_json(path, dict)):
        with pytest.raises(UserError, match="weights: is a Git LFS pointer.*git lfs pull"):
            read(path)
