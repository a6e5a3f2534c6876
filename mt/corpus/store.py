"""The token store: the pairs of one split as piece ids in a memory-mapped Arrow file.

An Arrow stream, which `datasets` reads too, read without copying through its buffers. A manifest beside the file holds
its digest, so that a truncated or edited file is an error and not a crash. Training text is encoded in shards: files of
so many pairs, each made on its own. A shard that is there is not made again, so that an interrupted preparation goes on
where it stopped; and where shards begin does not depend on the number of processes, so that neither does the store.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow
from pyarrow.compute import list_value_length

from mt.corpus.tokenizer import load_tokenizer
from mt.errors import UserError
from mt.files.atomic import atomic_file
from mt.files.json_file import check_listed, list_files, write_json
from mt.processes import ordered_map
from mt.progress import progress_bar

CHUNK = 10_000  # pairs tokenised at once: a record batch of the store
MANIFEST = "manifest.json"
_FILE = "pairs.arrow"
_SHARD = 50_000  # pairs: some 7 MB of text and as much of tokens; whole chunks


class TokenStore:
    """Pairs of one split, mapped from a file as `StoreWriter` writes it; both sides end with the end-of-sentence id.

    Attributes:
        source_lengths, target_lengths: (pairs,) int32, tokens of each side, end of sentence included.
        corpus: (pairs,) int32, number of the corpus, in the order of the config, that a pair comes from.
        weights: (pairs,) float64, how often a pair is seen in an epoch, or None: once.
    """

    def __init__(self, file: BinaryIO) -> None:
        # The mapping outlives the file, even a deleted one.
        buffer = pyarrow.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._table = pyarrow.ipc.open_stream(buffer).read_all()
        sides = [self._table["source"], self._table["target"]]
        self._starts = np.cumsum([0, *map(len, sides[0].chunks)]).tolist()
        # Of each batch the offsets (rows + 1,) and the ids of a side, without copying.
        self._sources, self._targets = (
            [(ids.offsets.to_numpy(), ids.values.to_numpy()) for ids in side.chunks] for side in sides
        )
        self.source_lengths, self.target_lengths = (list_value_length(side).to_numpy() for side in sides)
        self.corpus = self._table["corpus"].to_numpy()
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
        return list(self._table[f"{side}_text"][start:stop].to_pylist())

    def piece_counts(self, source_size: int, target_size: int) -> tuple[np.ndarray, np.ndarray]:
        """How often each id occurs, source side and target side: (source_size,) and (target_size,) int64."""
        sides = (self._sources, source_size), (self._targets, target_size)
        source, target = (
            sum((np.bincount(ids[at[0] : at[-1]], minlength=size) for at, ids in side), np.zeros(size, dtype=np.int64))
            for side, size in sides
        )
        return source, target

    def _ids(self, side: list[tuple[np.ndarray, np.ndarray]], index: int) -> np.ndarray:
        if not 0 <= index < self._starts[-1]:
            raise IndexError(f"pair {index} of a store of {len(self)}")
        chunk = bisect_right(self._starts, index) - 1
        row, (offsets, values) = index - self._starts[chunk], side[chunk]
        return values[offsets[row] : offsets[row + 1]]


def schema_of(*, with_text: bool) -> pyarrow.Schema:
    """The columns of a store; `with_text`: the texts too, beside the ids."""
    ids = pyarrow.list_(pyarrow.int32())
    columns = {"source": ids, "target": ids, "corpus": pyarrow.int32()}
    if with_text:
        columns |= {"source_text": pyarrow.string(), "target_text": pyarrow.string()}
    return pyarrow.schema(columns)


class StoreWriter:
    """Writes an Arrow stream that `TokenStore` reads, in a `with` block; `rows`: pairs written so far.

    `file`: open for writing, it is not closed; `schema`: as `schema_of` gives it.
    """

    def __init__(self, file: BinaryIO, schema: pyarrow.Schema) -> None:
        self._schema = schema
        # Python's own file, so that an error while writing is an OSError with its reason
        self._writer = pyarrow.ipc.new_stream(pyarrow.PythonFile(file, mode="w"), self._schema)
        self.rows = 0

    def write(self, *columns: Any) -> None:
        """Adds pairs, one record batch: source ids, target ids, corpus numbers, and the texts of both sides if kept."""
        arrays = [pyarrow.array(column, type=field.type) for column, field in zip(columns, self._schema)]
        self.write_batch(pyarrow.RecordBatch.from_arrays(arrays, schema=self._schema))

    def write_batch(self, batch: pyarrow.RecordBatch) -> None:
        """Adds the pairs of a record batch with the columns of the store."""
        self._writer.write_batch(batch)
        self.rows += len(batch)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writer.close()


@contextmanager
def create_store(folder: Path, *, with_text: bool) -> Iterator[StoreWriter]:
    """A writer for a new store in a folder; the manifest is written when the `with` block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _FILE).open("wb") as file, StoreWriter(file, schema_of(with_text=with_text)) as writer:
        yield writer
    write_manifest(folder)


def open_store(folder: Path, whole: Path | None = None) -> TokenStore:
    """Maps the store of a folder into memory, after `check_manifest`."""
    check_manifest(folder, whole)
    with (folder / _FILE).open("rb") as file:
        return TokenStore(file)


def write_manifest(folder: Path) -> None:
    """Writes `manifest.json`: the digest of every file that lies directly in the folder."""
    write_json(folder / MANIFEST, {"files": list_files(folder / MANIFEST)})


def check_manifest(folder: Path, whole: Path | None = None) -> None:
    """Raises UserError when the manifest of a folder or a file in it is missing, cut or changed.

    `whole`: the folder to delete then, because it is made as a whole; None: this one.
    """
    remedy = f"delete the folder {whole or folder} and run again"
    if not check_listed(folder / MANIFEST, remedy):
        raise UserError(f"{folder / MANIFEST}: lists no files; {remedy}")


def write_shards(folder: Path, pieces: Iterable[tuple[Sequence[str], Sequence[str]]]) -> None:
    """Writes text into a new folder: for each shard one file a side, a line feed after each line.

    `pieces`: sources and targets, of any size, in order.
    """
    folder.mkdir()
    pairs = chain.from_iterable(zip(*piece) for piece in pieces)
    for number, shard in enumerate(iter(lambda: list(islice(pairs, _SHARD)), [])):
        for side, lines in zip(("source", "target"), zip(*shard)):
            content = "".join(line + "\n" for line in lines).encode(errors="replace")  # UTF-8 has no surrogates
            (folder / f"{number:06}.{side}").write_bytes(content)
    write_manifest(folder)


def shard_lines(folder: Path, side: str, number: int | None = None) -> Iterator[str]:
    """The lines of one shard or of all; `side` is "source" or "target"."""
    for path in sorted(folder.glob(f"*.{side}" if number is None else f"{number:06}.{side}")):
        yield from path.read_bytes().decode().split("\n")[:-1]  # splitlines would know other ends of lines


def encode_shards(shards: Path, folder: Path, kept: Sequence[int], *, with_text: bool, processes: int) -> None:
    """Encodes the text of shards, in their folder, then into the token store `train` of a prepared folder.

    `folder` holds the tokeniser; `kept`: pairs of each corpus, in order; `with_text`: keep the text in the store.
    """
    count = -(-sum(kept) // _SHARD)
    threads = processes if count == 1 else 1  # of several shards each has a process of its own
    encode = partial(_encode_shard, shards=shards, folder=folder, kept=kept, with_text=with_text, threads=threads)
    bar = progress_bar(sum(kept), "tokenising", "pair")
    with create_store(folder / "train", with_text=with_text) as writer, bar:
        for path in ordered_map(encode, range(count), processes=min(processes, count), alone=0):
            with pyarrow.memory_map(str(path)) as file:
                for batch in pyarrow.ipc.open_stream(file):
                    writer.write_batch(batch)
                    bar.update(len(batch))


def _encode_shard(number: int, shards: Path, folder: Path, kept: Sequence[int], with_text: bool, threads: int) -> Path:
    """Makes the encoded shard of that number, unless it is there; its path."""
    path = shards / f"{number:06}.arrow"
    if path.exists():
        return path
    tokenizer = load_tokenizer(folder)
    sources, targets = list(shard_lines(shards, "source", number)), list(shard_lines(shards, "target", number))
    corpora = np.searchsorted(np.cumsum(kept), number * _SHARD + np.arange(len(sources)), side="right")
    schema = schema_of(with_text=with_text)
    with atomic_file(path) as temporary, temporary.open("wb") as file, StoreWriter(file, schema) as writer:
        for start in range(0, len(sources), CHUNK):
            lines = sources[start : start + CHUNK], targets[start : start + CHUNK]
            ids = tokenizer.encode_source(lines[0], threads=threads), tokenizer.encode_target(lines[1], threads=threads)
            writer.write(*ids, corpora[start : start + CHUNK], *lines)
    return path
