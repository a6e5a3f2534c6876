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
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import xxhash

from mt.errors import UserError
from mt.files.json_file import read_json, write_json
from mt.files.lines import is_packed, read_lines
from mt.files.output import difference
from mt.progress import progress_bar

FILE = "plan.json"
_BLOCK_BYTES = 1 << 22
_REMEDY = "remove the folder to begin anew"


class Shard(NamedTuple):
    """Consecutive lines of the inputs."""

    first: int
    """number of its first line, over all inputs, from 0"""
    lines: int
    file: int
    """place, among the inputs, of the file that it begins in"""
    skip: int
    """lines of that file before it"""
    offset: int
    """bytes of that file before it; 0: not known, as in a packed one"""
    digest: str
    """of its text"""


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
    """where they were when the plan was made"""
    stamps: list[tuple[int, int]]
    """size and time of change (ns) of each input: where they are the same, it is not read again to compare it"""
    shards: list[Shard]

    def target(self, folder: Path, number: int) -> Path:
        """The file of a shard's translations: a function of the plan."""
        return folder / f"{number:05d}-of-{len(self.shards):05d}.{self.extension}"

    def missing(self, folder: Path, numbers: Sequence[int] | None = None) -> list[int]:
        """The shards, of these or of all, that are not done."""
        present = {entry.name for entry in os.scandir(folder)}
        wanted = range(len(self.shards)) if numbers is None else numbers
        return [number for number in wanted if self.target(folder, number).name not in present]

    def lines(self, numbers: Sequence[int] | None = None) -> int:
        """How many lines these shards, or all, have."""
        return sum(self.shards[number].lines for number in (range(len(self.shards)) if numbers is None else numbers))


def read_plan(folder: Path) -> Plan | None:
    """The plan of a folder, if there is one. Raises UserError where it is damaged."""
    return read_json(folder / FILE, Plan, _REMEDY) if (folder / FILE).exists() else None


def write_plan(plan: Plan, folder: Path) -> Plan:
    """Writes the plan unless another run has just written one; the one that stands."""
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
    return read_json(folder / FILE, Plan, _REMEDY)


def check_plan(plan: Plan, folder: Path, fingerprint: dict[str, dict[str, Any]]) -> None:
    """Raises UserError where a call would translate with anything else than the plan says."""
    if differs := difference(plan.fingerprint, fingerprint):
        raise UserError(
            f"{folder / FILE}: was made with another {differs}; give the same command as before, or another --output"
        )


def stamps(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Size and time of change of files."""
    return [(found.st_size, found.st_mtime_ns) for found in (path.stat() for path in paths)]


def cut(paths: Sequence[Path], lines_per_shard: int) -> list[Shard]:
    """Reads all inputs to their end and cuts them into shards. Raises UserError as `read_lines`."""
    read = ((place, *line) for place, path in enumerate(paths) for line in enumerate(read_lines([path])))
    shards, first = list[Shard](), 0
    with progress_bar(None, "read the input", "line", leave=False) as bar:
        while chunk := list(islice(read, lines_per_shard)):
            place, skip, _ = chunk[0]
            shards.append(Shard(first, len(chunk), place, skip, 0, _digest([line for _, _, line in chunk])))
            first += len(chunk)
            bar.update(len(chunk))
    for place, path in enumerate(paths):
        inside = [number for number, shard in enumerate(shards) if shard.file == place and shard.skip]
        if inside and not is_packed(path):
            for number, offset in zip(inside, _offsets(path, [shards[number].skip for number in inside])):
                shards[number] = shards[number]._replace(offset=offset)
    return shards


def input_group(shards: Sequence[Shard], files: int) -> dict[str, Any]:
    """What a fingerprint says of the input."""
    digest = xxhash.xxh3_128_hexdigest("".join(shard.digest for shard in shards).encode())
    return {"files": files, "lines": sum(shard.lines for shard in shards), "digest": digest}


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
            stream: Iterator[str] = chain(_lines_from(path, shard.offset), read_lines(after))
        else:
            if not shard.first - shard.skip <= self._next <= shard.first:
                self._stream, self._next = read_lines([path, *after]), shard.first - shard.skip
            stream = self._stream
            deque(islice(stream, shard.first - self._next), maxlen=0)
            self._next = shard.first + shard.lines
        lines = list(islice(stream, shard.lines))
        if len(lines) < shard.lines or _digest(lines) != shard.digest:
            self._next = -1
            raise UserError(
                f"{path}: is not what it was when the plan was made, from line {shard.skip + 1} on; restore it, or "
                "begin anew with another --output"
            )
        return lines


def _digest(lines: list[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(lines).encode())


def _lines_from(path: Path, offset: int) -> Iterator[str]:
    """The lines of a plain file from this byte on, by the rules of `read_lines`, which has read them before."""
    with path.open("rb") as stream, suppress(UnicodeDecodeError):  # the digest tells of what was changed since
        stream.seek(offset)
        for line in stream:
            yield line.removesuffix(b"\n").rstrip(b"\r").decode()


def _offsets(path: Path, numbers: Sequence[int]) -> Iterator[int]:
    """Where lines of a plain file begin, in bytes; `numbers`: how many lines stand before each, rising."""
    wanted, seen = deque(numbers), 0
    with path.open("rb") as stream:
        while wanted and (block := stream.read(_BLOCK_BYTES)):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
            while wanted and wanted[0] <= seen + len(ends):
                yield stream.tell() - len(block) + int(ends[wanted.popleft() - seen - 1])
            seen += len(ends)
