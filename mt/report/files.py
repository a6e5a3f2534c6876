"""The files of an evaluation, read for its page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt.errors import UserError
from mt.report.rows import Record


@dataclass(frozen=True)
class Evaluation:
    """What the folder of an evaluation holds."""

    folder: Path
    results: dict[str, Any]
    records: list[Record]

    @property
    def name(self) -> str:
        """The model's name, or the folder's."""
        return str((self.results.get("model") or {}).get("name") or self.folder.resolve().name)


def read_evaluation(folder: Path) -> Evaluation:
    """Reads `results.json` and `records.jsonl`.

    Raises:
        UserError: one of the two is missing or is not what evaluate writes.
    """
    return Evaluation(folder, _read_results(folder / "results.json"), _read_records(folder / "records.jsonl"))


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the results of an evaluation: {path}: {error}; run evaluate again") from error
    if not isinstance(results, dict):
        raise UserError(f"not the results of an evaluation: {path}; run evaluate again")
    return results


def _read_records(path: Path) -> list[Record]:
    try:
        text = path.read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the records of an evaluation: {path}: {error}; run evaluate again") from error
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not {"line", "translation"} <= record.keys():
            raise UserError(f"{path}, line {number}: not a record of an evaluation; run evaluate again")
    return records
