"""The token store: the pairs of one split as piece ids in a memory-mapped Arrow file.

Written through `datasets` in chunks of bounded size; read without copying, through the Arrow buffers. A manifest
beside the file holds its length and checksum, so that a truncated or edited file is an error and not a crash.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow

from mt.errors import UserError
from mt.files.atomic import write_text

_FILE = "pairs.arrow"
MANIFEST = "manifest.json"


class TokenStore:
    """Pairs of one split. Both sides end with the end-of-sentence id.

    Attributes:
        source_lengths, target_lengths: (pairs,) int32, tokens of each side, end of sentence included.
        corpus: (pairs,) int32, number of the corpus, in the order of the config, that a pair comes from.
        weights: (pairs,) float64, how often a pair is seen in an epoch, or None: once.
    """

    def __init__(self, buffer: pyarrow.Buffer) -> None:
        """
        Args:
            buffer: an Arrow stream of record batches, as `StoreWriter` writes it.
        """
        self._batches = list(pyarrow.ipc.open_stream(buffer))
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()
        self._sources = [_list_views(batch.column("source")) for batch in self._batches]
        self._targets = [_list_views(batch.column("target")) for batch in self._batches]
        self.source_lengths = _concatenate([np.diff(offsets) for offsets, _ in self._sources])
        self.target_lengths = _concatenate([np.diff(offsets) for offsets, _ in self._targets])
        self.corpus = _concatenate([batch.column("corpus").to_numpy() for batch in self._batches])
        self.weights: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def source(self, index: int) -> np.ndarray:
        """(length,) int32: a read-only view of the source ids of one pair."""
        return self._ids(self._sources, index)

    def target(self, index: int) -> np.ndarray:
        """As `source`, for the target side."""
        return self._ids(self._targets, index)

    def texts(self, side: str, start: int, stop: int) -> list[str]:
        """Texts of the pairs from start to stop on one side ("source" or "target"), where they are kept."""
        texts: list[str] = []
        while start < stop:
            chunk, row = self._place(start)
            texts += self._batches[chunk].column(f"{side}_text").slice(row, stop - start).to_pylist()
            start = self._starts[chunk + 1]
        return texts

    def target_counts(self, size: int) -> np.ndarray:
        """(size,) int64: how often each target id occurs."""
        counts = np.zeros(size, dtype=np.int64)
        for offsets, values in self._targets:
            counts += np.bincount(values[offsets[0] : offsets[-1]], minlength=size)
        return counts

    def _ids(self, side: list[tuple[np.ndarray, np.ndarray]], index: int) -> np.ndarray:
        chunk, row = self._place(index)
        offsets, values = side[chunk]
        return values[offsets[row] : offsets[row + 1]]

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"pair {index} of a store of {len(self)}")
        chunk = bisect_right(self._starts, index) - 1
        return chunk, index - self._starts[chunk]


def store_schema(with_text: bool) -> pyarrow.Schema:
    """Columns of a store: source and target ids, corpus number, and the texts if they are kept."""
    ids = pyarrow.list_(pyarrow.int32())
    columns = {"source": ids, "target": ids, "corpus": pyarrow.int32()}
    if with_text:
        columns |= {"source_text": pyarrow.string(), "target_text": pyarrow.string()}
    return pyarrow.schema(columns)


def store_table(columns: Sequence[Any], schema: pyarrow.Schema) -> pyarrow.Table:
    """Pairs as an Arrow table; `columns` are sequences, those that the schema does not have are left out."""
    arrays = [pyarrow.array(column, type=field.type) for column, field in zip(columns, schema)]
    return pyarrow.Table.from_arrays(arrays, schema=schema)


class StoreWriter:
    """Writes an Arrow stream that `TokenStore` reads, in a `with` block."""

    def __init__(self, file: BinaryIO, *, with_text: bool) -> None:
        """
        Args:
            file: open for writing; it is not closed.
            with_text: keep the texts beside the ids.
        """
        import datasets
        from datasets.arrow_writer import ArrowWriter

        self._schema = store_schema(with_text)
        features = datasets.Features.from_arrow_schema(self._schema)
        # Python's own file, so that an error while writing is an OSError with its reason
        self._writer = ArrowWriter(features=features, stream=pyarrow.PythonFile(file, mode="w"))
        self.rows = 0
        """pairs written so far"""

    def write(
        self,
        source: Sequence[Sequence[int]],
        target: Sequence[Sequence[int]],
        corpus: Sequence[int] | np.ndarray,
        source_text: Sequence[str] = (),
        target_text: Sequence[str] = (),
    ) -> None:
        """Adds pairs: one record batch. The texts are needed if the store is to have them."""
        self.write_table(store_table([source, target, corpus, source_text, target_text], self._schema))

    def write_table(self, table: pyarrow.Table) -> None:
        """As `write`, for a table as `store_table` makes it."""
        if len(table):
            self._writer.write_table(table, writer_batch_size=len(table))
        self.rows += len(table)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if kind is None:
            if not self.rows:  # a stream needs its schema, even without pairs
                self._writer.write_table(self._schema.empty_table())
            self._writer.finalize(close_stream=False)


@contextmanager
def create_store(folder: Path, *, with_text: bool) -> Iterator[StoreWriter]:
    """A writer for a new store in a folder; the manifest is written when the `with` block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _FILE).open("wb") as file, StoreWriter(file, with_text=with_text) as writer:
        yield writer
    write_manifest(folder)


def open_store(folder: Path, whole: Path | None = None) -> TokenStore:
    """Maps the store of a folder into memory; `whole` as in `check_manifest`.

    Raises:
        UserError: a file is missing, or is not what the manifest says.
    """
    check_manifest(folder, whole)
    with (folder / _FILE).open("rb") as file:
        return map_store(file)


def map_store(file: BinaryIO) -> TokenStore:
    """A store over an open file; the mapping outlives the file, even a deleted one."""
    return TokenStore(pyarrow.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def write_manifest(folder: Path) -> None:
    """Writes `manifest.json`: bytes and checksum of every file that lies directly in the folder."""
    files = {
        path.name: {"bytes": path.stat().st_size, "blake2b": checksum(path)}
        for path in sorted(folder.iterdir())
        if path.is_file() and path.name != MANIFEST
    }
    write_text(folder / MANIFEST, json.dumps({"files": files}, indent=2) + "\n")


def check_manifest(folder: Path, whole: Path | None = None) -> None:
    """Compares the files of a folder with its manifest.

    Args:
        folder: holds the manifest.
        whole: the folder to delete when something is wrong, because it is made as a whole; None: this one.

    Raises:
        UserError: the manifest or a file is missing, cut or changed; says which, and what to delete.
    """
    remedy = f"delete the folder {whole or folder} and run again"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            path = folder / name
            length = path.stat().st_size
            if length != expected["bytes"]:
                raise UserError(
                    f"{path}: is {length} bytes long, and was {expected['bytes']} when it was written; {remedy}"
                )
            if checksum(path) != expected["blake2b"]:
                raise UserError(f"{path}: was changed or damaged after it was written; {remedy}")
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); {remedy}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{folder / MANIFEST}: damaged; {remedy}") from None


def checksum(path: Path) -> str:
    """BLAKE2b of a file, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _list_views(column: Any) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (rows + 1,) and values of a list column, without copying."""
    return column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True)


def _concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=np.int32), *arrays]).astype(np.int32, copy=False)
