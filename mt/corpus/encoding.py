"""From cleaned text to a token store, in shards: files of so many pairs, each made on its own.

A shard that is there is not made again, so that an interrupted preparation goes on where it stopped; and where
shards begin does not depend on the number of processes, so that neither does the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow

from mt.corpus.store import create_store, store_schema, store_table
from mt.corpus.tokenizer import load_tokenizer
from mt.files.atomic import atomic_file
from mt.processes import ordered_map
from mt.progress import progress_bar

CHUNK = 10_000  # pairs tokenised at once: a record batch of the store
TOKENS = "tokens"  # folder of encoded shards
_SHARD = 50_000  # pairs: some 7 MB of text and as much of tokens; whole chunks


class TextShards:
    """Cleaned text in a folder: for each shard one file a side, a line feed after each line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, pieces: Iterable[tuple[list[str], list[str]]]) -> None:
        """Writes pieces of any size, in order."""
        self.folder.mkdir()
        number, sources, targets = 0, list[str](), list[str]()
        for piece in pieces:
            sources += piece[0]
            targets += piece[1]
            while len(sources) >= _SHARD:
                self._write(number, sources[:_SHARD], targets[:_SHARD])
                number, sources, targets = number + 1, sources[_SHARD:], targets[_SHARD:]
        if sources:
            self._write(number, sources, targets)

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("*.source"))

    def read(self, number: int, side: str) -> list[str]:
        """The lines of one shard; `side` is "source" or "target"."""
        return (self.folder / f"{number:06}.{side}").read_bytes().decode().split("\n")[:-1]

    def lines(self, side: str) -> Iterator[str]:
        """The lines of all shards."""
        for number in range(len(self)):
            yield from self.read(number, side)

    def _write(self, number: int, sources: list[str], targets: list[str]) -> None:
        for side, lines in (("source", sources), ("target", targets)):
            content = "".join(line + "\n" for line in lines).encode(errors="replace")
            (self.folder / f"{number:06}.{side}").write_bytes(content)


def encode_shards(text: TextShards, folder: Path, kept: Sequence[int], *, with_text: bool, processes: int) -> None:
    """Encodes cleaned text into the token store `train` of a prepared folder.

    Args:
        text: what is encoded.
        folder: holds the tokeniser; encoded shards that are there are taken as they are.
        kept: pairs of each corpus, in order.
        with_text: keep the text in the store.
        processes: how many encode.
    """
    (folder / TOKENS).mkdir(exist_ok=True)
    shards = len(text)
    encode = partial(
        _encode_shard, text=text, folder=folder, kept=kept, with_text=with_text, threads=processes if shards == 1 else 1
    )
    paths = ordered_map(encode, range(shards), processes=min(processes, shards), alone=0)
    with (
        create_store(folder / "train", with_text=with_text) as writer,
        progress_bar(sum(kept), "tokenising", "pair") as bar,
    ):
        for path in paths:
            with pyarrow.memory_map(str(path)) as file:
                for batch in pyarrow.ipc.open_stream(file):
                    writer.write_table(pyarrow.Table.from_batches([batch]))
                    bar.update(len(batch))


def _encode_shard(
    number: int, text: TextShards, folder: Path, kept: Sequence[int], with_text: bool, threads: int
) -> Path:
    """Makes the encoded shard of that number, unless it is there; its path."""
    path = folder / TOKENS / f"{number:06}.arrow"
    if path.exists():
        return path
    tokenizer = load_tokenizer(folder)
    sources, targets = text.read(number, "source"), text.read(number, "target")
    corpora = np.searchsorted(np.cumsum(kept), number * _SHARD + np.arange(len(sources)), side="right")
    schema = store_schema(with_text)
    with atomic_file(path) as temporary, pyarrow.ipc.new_stream(str(temporary), schema) as writer:
        for start in range(0, len(sources), CHUNK):
            lines = sources[start : start + CHUNK], targets[start : start + CHUNK]
            ids = tokenizer.encode_source(lines[0], threads=threads), tokenizer.encode_target(lines[1], threads=threads)
            writer.write_table(store_table([*ids, corpora[start : start + CHUNK], *lines], schema))
    return path
