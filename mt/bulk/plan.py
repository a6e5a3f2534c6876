"""What is to be translated, cut into shards of consecutive lines: written once, then the same for every run.

A shard is so many lines of the inputs as they follow one another, whatever files they stand in. The plan says where it
begins and what its text hashes to, so that each can be read, and checked, by itself.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import xxhash

from mt.errors import UserError
from mt.files.json_file import read_json, write_json
from mt.files.lines import is_packed, read_lines
from mt.files.output import difference
from mt.progress import progress_bar

FILE = "plan.json"


class Shard(NamedTuple):
    """Lines of the inputs: the number of the first, over all of them, and how many; the place of the file where it
    begins, how many lines and bytes of that come before it (0 bytes: not known, as it is packed), a hash of its text"""

    first: int
    lines: int
    file: int
    skip: int
    offset: int
    digest: str


@dataclass(frozen=True)
class Plan:
    """All shards, and what their translations depend on."""

    fingerprint: dict[str, dict[str, Any]]
    """by group: model, input, options as they were asked for"""
    engine: str
    device: str
    """what was chosen where "auto" was asked for: the same for every worker"""
    extension: str
    model: str
    inputs: list[str]
    stamps: list[tuple[int, int]]
    """size and time of change (ns) of each input: where they are the same, it is not read again to compare it"""
    shards: list[Shard]

    def target(self, folder: Path, number: int) -> Path:
        """The file of a shard's translations: a function of the plan."""
        return folder / f"{number:05d}-of-{len(self.shards):05d}.{self.extension}"

    def missing(self, folder: Path, numbers: Sequence[int]) -> list[int]:
        """Those of these shards that are not done."""
        present = set(os.listdir(folder))
        return [number for number in numbers if self.target(folder, number).name not in present]

    def lines(self, numbers: Sequence[int]) -> int:
        """How many lines these shards have."""
        return sum(self.shards[number].lines for number in numbers)


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder, if there is one. Raises UserError where it is damaged."""
    path = folder / FILE
    return read_json(path, Plan, "remove the folder to begin anew") if path.exists() else None


def write_plan(plan: Plan, folder: Path) -> None:
    """Writes the plan unless another run has just written one."""
    own = folder / f".{FILE}.{uuid4().hex}"
    write_json(own, asdict(plan))
    try:
        os.link(own, folder / FILE)  # unlike a rename it never replaces
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(own, folder / FILE)
    finally:
        own.unlink(missing_ok=True)


def check_plan(plan: Plan, folder: Path, fingerprint: dict[str, dict[str, Any]]) -> None:
    """Raises UserError where a call would translate with anything else than the plan says."""
    if differs := difference(plan.fingerprint, fingerprint):
        raise UserError(
            f"{folder / FILE}: was made with another {differs}; give the same command as before, or another --output"
        )


def stamps(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Size and time of change of files."""
    return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]


def cut(paths: Sequence[Path], lines_per_shard: int) -> tuple[list[Shard], dict[str, Any]]:
    """Reads all inputs to their end; their shards, and what a fingerprint says of them. Raises UserError as
    `read_lines`."""
    read = ((place, *line) for place, path in enumerate(paths) for line in _numbered_lines(path))
    shards, first = list[Shard](), 0
    with progress_bar(None, "read the input", "line", leave=False) as bar:
        while chunk := list(islice(read, lines_per_shard)):
            place, skip, offset, _ = chunk[0]
            shards.append(Shard(first, len(chunk), place, skip, offset, _digest([line for *_, line in chunk])))
            first += len(chunk)
            bar.update(len(chunk))
    digest = _digest([shard.digest for shard in shards])
    return shards, {"files": len(paths), "lines": first, "digest": digest}


class ShardReader:
    """Reads shards of the inputs. In a packed file, of which all that comes before must be unpacked, it goes on from
    where it stands: shards in rising order cost one pass, however many there are."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self._next = paths, -1
        self._stream: Iterator[str] = iter(())

    def read(self, shard: Shard) -> list[str]:
        """The lines. Raises UserError where they are not those that the plan was made from."""
        path, after = self._paths[shard.file], self._paths[shard.file + 1 :]
        if shard.offset:
            self._stream, self._next = chain(_lines_from(path, shard.offset), read_lines(after)), shard.first
        elif not shard.first - shard.skip <= self._next <= shard.first:
            self._stream, self._next = read_lines([path, *after]), shard.first - shard.skip
        deque(islice(self._stream, shard.first - self._next), maxlen=0)
        lines = list(islice(self._stream, shard.lines))
        self._next = shard.first + shard.lines
        if _digest(lines) != shard.digest:
            self._next = -1
            raise UserError(
                f"{path}: is not what it was when the plan was made, from line {shard.skip + 1} on; restore it, or "
                "begin anew with another --output"
            )
        return lines


def _digest(lines: list[str]) -> str:
    return xxhash.xxh3_128_hexdigest("".join(f"{line}\n" for line in lines).encode())


def _numbered_lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """The lines of a file, each behind its number and, in a plain file, how many bytes come before it."""
    with path.open("rb") as stream:
        offsets = repeat(0) if is_packed(path) else accumulate(map(len, stream), initial=0)
        yield from ((number, offset, line) for (number, line), offset in zip(enumerate(read_lines([path])), offsets))


def _lines_from(path: Path, offset: int) -> Iterator[str]:
    """The lines of a plain file from this byte on, by the rules of `read_lines`, which has read them before."""
    with path.open("rb") as stream, suppress(UnicodeDecodeError):  # the digest tells of what was changed since
        stream.seek(offset)
        yield from (line.removesuffix(b"\n").rstrip(b"\r").decode() for line in stream)
