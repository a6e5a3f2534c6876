"""The training store of each epoch: always the same, or with subword sampling a new one.

While an epoch is trained on, another process segments the next one, so that training does not wait for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mt.config import Config
from mt.corpus.encoding import CHUNK
from mt.corpus.store import StoreWriter, TokenStore, map_store
from mt.corpus.tokenizer import Tokenizer, load_tokenizer
from mt.errors import UserError
from mt.progress import progress_bar

if TYPE_CHECKING:
    from mt.corpus.prepare import Prepared

_PROGRAM = """
import json, sys
given = json.loads(sys.argv[1])
sys.path[:] = given.pop("path")
from mt.corpus.epochs import segment_for_another
segment_for_another(**given)
"""


def epoch_store(prepared: Prepared, config: Config, epoch: int) -> TokenStore:
    """The training store of one epoch.

    Without subword sampling it is `prepared.train`. With it, the text is segmented afresh, a pure function of
    the text, the tokeniser, `config.seed` and the epoch. The new store lies in a nameless file beside the
    prepared folder, which goes when the store goes. The next epoch's is begun.
    """
    settings = config.tokenizer
    if settings.sampling == 0:
        return prepared.train
    cache = prepared.folder.parent
    ahead, options = prepared.ahead, (settings.sampling, settings.sampling_side, config.seed)
    this, following = (epoch, *options), (epoch + 1, *options)
    try:
        store = ahead.get(this)
        if not isinstance(store, TokenStore):
            store = _await(store) or _segment_here(prepared, options, epoch)
            store.weights = prepared.train.weights
            ahead.clear()
            ahead[this] = store
        if following not in ahead and (epoch + 1 < config.train.max_epochs or not config.train.max_epochs):
            ahead[following] = _begin(prepared, options, epoch + 1)
    except OSError as error:
        raise UserError(
            f"{cache}: the segmentation of epoch {epoch} cannot be written ({error.strerror}); "
            "make room, or give another folder with --data.cache FOLDER"
        ) from None
    return store


def _temporary_file(prepared: Prepared) -> Any:
    """A nameless file in the cache, or in the usual temporary folder if the cache can only be read."""
    cache = prepared.folder.parent
    return tempfile.TemporaryFile(dir=cache if os.access(cache, os.W_OK) else None)


def _segment_here(prepared: Prepared, options: tuple[float, str, int], epoch: int) -> TokenStore:
    with _temporary_file(prepared) as file:
        with progress_bar(len(prepared.train), "segmenting", "pair", leave=False) as bar:
            _segment(prepared.train, prepared.tokenizer, file, options, epoch, bar)
        return map_store(file)


def _begin(prepared: Prepared, options: tuple[float, str, int], epoch: int) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """Starts a process that segments an epoch into a nameless file."""
    file = _temporary_file(prepared)
    given = {
        "path": sys.path,
        "folder": str(prepared.folder),
        "descriptor": file.fileno(),
        "options": options,
        "epoch": epoch,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(given)],
        pass_fds=[file.fileno()],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return process, file


def _await(begun: tuple[subprocess.Popen[bytes], BinaryIO] | None) -> TokenStore | None:
    """The store of an epoch that was begun; None if there is none: not begun, or failed."""
    if begun is None:
        return None
    process, file = begun
    with file:
        return map_store(file) if process.wait() == 0 else None


def segment_for_another(folder: str, descriptor: int, options: list[Any], epoch: int) -> None:
    """What the process does: segments into an open file. Whatever fails is done again, and told, by its parent."""
    os.nice(5)  # behind the training
    with (Path(folder) / "train" / "pairs.arrow").open("rb") as pairs, os.fdopen(descriptor, "wb") as file:
        sampling, side, seed = options
        _segment(map_store(pairs), load_tokenizer(Path(folder)), file, (sampling, side, seed), epoch)


def _segment(
    train: TokenStore, tokenizer: Tokenizer, file: Any, options: tuple[float, str, int], epoch: int, bar: Any = None
) -> None:
    sampling, side, run_seed = options
    with StoreWriter(file, with_text=False) as writer:
        for start in range(0, len(train), CHUNK):
            stop = min(start + CHUNK, len(train))
            seed = _chunk_seed(run_seed, epoch, start)
            sources = tokenizer.encode_sampled("source", train.texts("source", start, stop), sampling, seed)
            targets: Any = [train.target(row) for row in range(start, stop)]
            if side == "both":
                targets = tokenizer.encode_sampled("target", train.texts("target", start, stop), sampling, seed + 1)
            writer.write(sources, targets, train.corpus[start:stop])
            if bar is not None:
                bar.update(stop - start)
    file.flush()


def _chunk_seed(seed: int, epoch: int, start: int) -> int:
    digest = hashlib.blake2b(f"{seed} {epoch} {start}".encode(), digest_size=7)
    return int.from_bytes(digest.digest(), "big")
