"""Models of the Hugging Face hub, by name: fetched to its cache, and published."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mt.config import Config
from mt.errors import UserError
from mt.files.json_file import check_listed, listed_files, read_json
from mt.model.card import model_card

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
_SECONDS = 5.0  # that the hub has to answer
_LATER = ("calibration.json", "shortlist.safetensors")  # what other commands put beside the files that are listed


def is_hub_name(path: Path) -> bool:
    """Whether a path that is not there names a model of the hub, as in organisation/model or organisation/model@v1."""
    return bool(_NAME.fullmatch(str(path))) and not path.exists() and not path.parent.exists()


def fetch(name: str) -> Path:
    """The folder of a model of the hub in the cache of `huggingface_hub`, fetched where it is not there or not the
    newest; without a network, the one that is there. Raises UserError where there is none."""
    from huggingface_hub import hf_hub_download, snapshot_download

    repository, _, tag = name.partition("@")
    revision: dict[str, Any] = {"revision": tag or None, "etag_timeout": _SECONDS}
    with _told(f"{name}: no such folder here, and the hub gives no such model"):
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what fails is told below
        listing = Path(hf_hub_download(repository, "meta.json", **revision))
        files = [*(listed_files(listing, "it is none of mt's models") or ()), "meta.json", *_LATER]
        return Path(snapshot_download(repository, allow_patterns=files, **revision))


def publish(
    folder: Path,
    config: Config,
    meta: dict[str, Any],
    name: str,
    evaluation: str | Path | None = None,
    *,
    licence: str = "",
    private: bool | None = None,
    token: str | None = None,
) -> str:
    """Puts a model directory and its card into a repository of the hub, in one commit; its address.

    Args:
        folder, config, meta: the model directory, its config and its meta.json.
        name: as in organisation/model; it is made where it is not there.
        evaluation: a folder that `evaluate` wrote of this model, whose figures the card tells.
        licence: by the hub's names, as in "apache-2.0".
        private, token: as `huggingface_hub` takes them; without a token, HF_TOKEN or the one that was logged in with.

    Raises:
        UserError: the evaluation is not of this model, or the hub does not take it.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not _NAME.fullmatch(name) or "@" in name:
        raise UserError(f"{name}: is no name of the hub; give ORGANISATION/MODEL")
    results = None if evaluation is None else _results(Path(evaluation), meta)
    card = model_card(config, meta, name, results, licence)
    files = [*(listed_files(folder / "meta.json", "restore it") or ()), "meta.json", *_LATER]
    operations = [CommitOperationAdd(name, str(folder / name)) for name in files if (folder / name).exists()]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    hub = HfApi(token=token)
    with _told(f"{name}: was not published"):
        hub.create_repo(name, private=private, exist_ok=True)
        hub.create_commit(name, operations, commit_message="Model directory of mt")
    return f"{hub.endpoint}/{name}"


def _results(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    path, remedy = folder / "results.json", "run evaluate again"
    results = read_json(path, dict[str, Any], remedy)
    check_listed(path, remedy)
    if (results.get("model") or {}).get("fingerprint") != meta.get("weights_blake2b"):
        raise UserError(f"{path}: is of another model; evaluate this one")
    return results


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns what goes wrong on the way to the hub into one line."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        remedy = "check the name, the network and, for one that is private, HF_TOKEN"
        raise UserError(f"{what} ({reason}); {remedy}") from None
