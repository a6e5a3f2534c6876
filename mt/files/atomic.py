"""Files and folders that appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from mt.errors import UserError, concerning

DESCRIPTORS = Path("/dev/fd")
_MOST_LINKS = 40  # as many as Linux follows
_LOCK_TRIES = 15  # a second and a half: processes that a killed call has started keep its lock until they notice


def destination(path: Path) -> Path:
    """Where writing to `path` ends, its links followed: a file that need not be there yet, or for a descriptor of this
    process (/dev/stdout) its name in `DESCRIPTORS`. Raises UserError when the links lead in a circle."""
    for _ in range(_MOST_LINKS):
        folder = os.path.realpath(path.parent)
        if re.fullmatch(rf"/proc/{os.getpid()}(/task/\d+)?/fd", folder) and path.name.isdecimal():
            return DESCRIPTORS / path.name
        path = Path(folder, path.name)
        if not path.is_symlink():
            return path
        path = Path(folder, os.readlink(path))
    raise UserError(f"{path}: its links lead in a circle; give another name")


def open_direct(target: Path) -> FileIO | None:
    """A device, a pipe or a descriptor, which are written directly; None for a file."""
    if target.parent == DESCRIPTORS:  # opened by its name, a file would be written from its beginning
        return FileIO(int(target.name), "w", closefd=False)
    return None if target.is_file() or not target.exists() else FileIO(target, "w")


def open_locked(path: Path, busy: str) -> FileIO:
    """Opens a file, new where there is none, that no other process opens so until it is closed. Raises UserError, the
    message `busy`, when another one has it; where a file system has no locks, nobody is kept out."""
    for _ in range(_LOCK_TRIES):
        stream = FileIO(path, "r+", opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.1)
        except OSError:
            return stream
        else:
            with suppress(FileNotFoundError):  # the process before may just have renamed or removed this very file
                if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                    return stream
        stream.close()
    raise UserError(busy)


def write_all(stream: FileIO | BinaryIO, data: bytes, name: str | Path) -> None:
    """Writes all of it, at once. An error names `name`."""
    with concerning(name):
        while data:  # an unbuffered stream may take a part only
            data = data[stream.write(data) :]
        stream.flush()


def _sync(path: Path) -> None:
    with concerning(path), path.open("rb") as stream:
        os.fsync(stream)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path; what the block writes there appears at `path` when it ends without an error.

    It lies beside what `path` stands for, its links followed, and is renamed onto it; on an error it is removed and
    `path` is left as it was. A device or pipe gets the whole content at the end of the block.
    """
    target = destination(path)
    if direct := open_direct(target):
        with direct, TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            write_all(direct, Path(folder, path.name).read_bytes(), path)
        return
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with concerning(path):
            yield temporary
        _sync(temporary)  # else a crash could leave the new name without its content
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes `text` (UTF-8, line feeds kept) to `path` atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; renames it to `path` when the block ends without an error.

    A folder that stands at `path`, its links followed, is replaced. On an error nothing of the new one is left.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with concerning(path):
            yield temporary
        move_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(temporary: Path, path: Path) -> None:
    """Renames a finished folder to `path`, its files safely on disk; one that already stands there is replaced."""
    for file in temporary.rglob("*"):
        if file.is_file():
            _sync(file)
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    if path.exists():
        os.replace(path, old)  # a folder cannot be renamed onto one that holds files
    os.replace(temporary, path)
    shutil.rmtree(old, ignore_errors=True)
