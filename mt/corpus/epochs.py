"""The training store of each epoch: always the same, or with subword sampling a new one.

While an epoch is trained on, another process segments the next one, so that training does not wait for it.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
from multiprocessing import reduction
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, BinaryIO, cast

from mt.config import Config
from mt.corpus.prepare import Prepared
from mt.corpus.store import CHUNK, StoreWriter, TokenStore, open_store, schema_of
from mt.corpus.tokenizer import Tokenizer, load_tokenizer
from mt.errors import UserError
from mt.processes import start_process
from mt.progress import progress_bar

# An open file on its way to a process that is being started becomes a file to write to there.
reduction.register(io.BufferedRandom, lambda file: (_write_to, (reduction.DupFd(file.fileno()),)))


def epoch_store(prepared: Prepared, config: Config, epoch: int) -> TokenStore:
    """The training store of one epoch.

    Without subword sampling it is `prepared.train`. With it, the text is segmented afresh, a pure function of the text,
    the tokeniser, `config.seed` and the epoch. The new store lies in a nameless file beside the prepared folder, which
    goes when the store goes. The next epoch's is begun.
    """
    if config.tokenizer.sampling == 0:
        return prepared.train
    known = prepared.segmented
    try:
        store = known.get(epoch)
        if not isinstance(store, TokenStore):
            store = (store and _await(*store)) or _segment_here(prepared, config, epoch)
            store.weights = prepared.train.weights
            known.clear()
            known[epoch] = store
        if epoch + 1 not in known and (epoch + 1 < config.train.max_epochs or not config.train.max_epochs):
            known[epoch + 1] = _begin(prepared, config, epoch + 1)
    except OSError as error:
        raise UserError(
            f"{prepared.folder.parent}: the segmentation of epoch {epoch} cannot be written ({error.strerror}); "
            "make room, or give another folder with --data.cache FOLDER"
        ) from None
    return store


def _nameless_file(prepared: Prepared) -> BinaryIO:
    """In the cache, or in the usual temporary folder if the cache can only be read; gone with the last who has it."""
    cache = prepared.folder.parent
    return cast(BinaryIO, tempfile.TemporaryFile(dir=cache if os.access(cache, os.W_OK) else None))


def _segment_here(prepared: Prepared, config: Config, epoch: int) -> TokenStore:
    with progress_bar(len(prepared.train), "segmenting", "pair", leave=False) as bar, _nameless_file(prepared) as file:
        _segment(prepared.train, prepared.tokenizer, file, config, epoch, bar)
        return TokenStore(file)


def _begin(prepared: Prepared, config: Config, epoch: int) -> tuple[SpawnProcess, BinaryIO]:
    """Starts a process that segments an epoch into a nameless file."""
    file = _nameless_file(prepared)
    return start_process(_segment_ahead, prepared.folder, file, config, epoch, daemon=True), file


def _await(process: SpawnProcess, file: BinaryIO) -> TokenStore | None:
    """The store of an epoch that was begun; None if that failed."""
    with file:
        process.join()
        return TokenStore(file) if process.exitcode == 0 else None


def _write_to(duplicate: Any) -> BinaryIO:
    return os.fdopen(duplicate.detach(), "wb")


def _segment_ahead(folder: Path, file: BinaryIO, config: Config, epoch: int) -> None:
    """What the other process does."""
    os.nice(5)  # behind the training
    try:
        _segment(open_store(folder / "train", folder), load_tokenizer(folder), file, config, epoch)
    except Exception:  # the parent does it again, and tells what is wrong
        sys.exit(1)


def _segment(
    train: TokenStore, tokenizer: Tokenizer, file: BinaryIO, config: Config, epoch: int, bar: Any = None
) -> None:
    sampling = config.tokenizer.sampling
    with StoreWriter(file, schema_of(with_text=False)) as writer:
        for start in range(0, len(train), CHUNK):
            stop = min(start + CHUNK, len(train))
            digest = hashlib.blake2b(f"{config.seed} {epoch} {start}".encode(), digest_size=7).digest()
            seed = int.from_bytes(digest, "big")
            sources = tokenizer.encode_sampled("source", train.texts("source", start, stop), sampling, seed)
            targets: Any = [train.target(row) for row in range(start, stop)]
            if config.tokenizer.sampling_side == "both":
                targets = tokenizer.encode_sampled("target", train.texts("target", start, stop), sampling, seed + 1)
            writer.write(sources, targets, train.corpus[start:stop])
            if bar is not None:
                bar.update(stop - start)
    file.flush()  # the parent maps what is in the file, not what is in the buffer
