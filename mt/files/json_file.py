"""JSON that is checked when it is read: unchanged since it was written, of the form and the ranges that are expected.

The form is a dataclass, a TypedDict or any other type that msgspec knows; a dataclass that raises ValueError when it is
made, as every `Section` does out of range, refuses the file. NaN, infinity and numbers too large for a float are never
taken. A checksum finds damage, it does not prove who wrote the file.

A JSON file may also list the files beside it with their digests, under `files`: so one of them vouches for a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import msgspec
import xxhash

from mt.errors import UserError, concerning
from mt.files.atomic import write_text

Kind = TypeVar("Kind")

_CHECKSUM = ',\n  "checksum": "'
_BLOCK_BYTES = 1 << 20
_LFS_POINTER = b"version https://git-lfs"


class _Listing(TypedDict, total=False):
    files: dict[str, str]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes an object that is not empty, atomically, with the checksum of its text as its last entry."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
    write_text(path, f'{text}{_CHECKSUM}{xxhash.xxh3_128_hexdigest(text.encode())}"\n}}\n')


def read_json(path: Path, kind: type[Kind], remedy: str = "restore the file") -> Kind:
    """The content of a JSON file, as `kind`. Raises UserError when the file is missing, of another form, out of range,
    or not as `write_json` left it; one without a checksum, by hand or by an earlier version, is taken as it is."""
    data = read_bytes(path, remedy)
    text, mark, rest = data.rpartition(_CHECKSUM.encode())
    if mark and rest.partition(b'"')[0] != xxhash.xxh3_128_hexdigest(text).encode():
        raise UserError(
            f"{path}: is damaged, its checksum does not fit; {remedy}, or take its last entry, the checksum, out if "
            "you changed it yourself"
        )
    return parse_json(data, kind, str(path), remedy)


def read_bytes(path: Path, remedy: str = "restore the file") -> bytes:
    """The content of a file. Raises UserError when it is missing, cannot be read, or is a Git LFS pointer."""
    try:
        check_no_lfs_pointer(path)
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def parse_json(text: bytes | str, kind: type[Kind], place: str, remedy: str = "restore the file") -> Kind:
    """A JSON text as `kind`. Raises UserError, which names `place`, when it is not of that form."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: bytes that are not UTF-8
        raise UserError(f"{place}: not as expected ({str(error)[:200]}); {remedy}") from None


def file_digest(path: Path) -> str:
    """XXH3 of a file's bytes, at several gigabytes a second."""
    digest = xxhash.xxh3_128()
    with concerning(path), path.open("rb") as stream:
        while data := stream.read(_BLOCK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def list_files(listing: Path) -> dict[str, str]:
    """For `files` of the JSON file `listing`: the digest of each other file directly in its folder, by name."""
    paths = sorted(listing.parent.iterdir())
    return {path.name: file_digest(path) for path in paths if path.is_file() and path != listing}


def check_listed(listing: Path, remedy: str) -> bool:
    """Whether a JSON file lists the files beside it; an earlier version did not. Raises UserError when one of them is
    missing or not as it was."""
    listed = listed_files(listing, remedy)
    for path, digest in ((listing.parent / name, digest) for name, digest in (listed or {}).items()):
        try:
            intact = file_digest(path) == digest
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        if not intact:
            check_no_lfs_pointer(path)
            raise UserError(
                f"{path}: was changed or damaged since {listing} was written; {remedy}, or take it out of the files "
                "there if you changed it yourself"
            )
    return listed is not None


def listed_files(listing: Path, remedy: str) -> dict[str, str] | None:
    """The files that a JSON file lists, with their digests; None in one of an earlier version. Raises UserError where
    a name leads elsewhere than beside it."""
    files = read_json(listing, _Listing, remedy).get("files")
    for name in files or ():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"{listing}: lists {name!r}, which is no name of a file beside it; {remedy}")
    return files


def check_no_lfs_pointer(path: Path) -> None:
    """Raises UserError where a file is what Git LFS leaves in place of a large one until that is asked for."""
    with concerning(path), path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise UserError(
                f"{path}: is a Git LFS pointer, which says where the content is, not the content; run git lfs pull in "
                "the repository that it comes from"
            )
