"""The files of an evaluation, read for its page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mt.errors import UserError
from mt.evaluation.results import Results

Block = Mapping[str, Any]
"""a calibration block, mt.metrics.bins.CalibrationBlock; one of an older version may lack keys"""
Record = dict[str, Any]

TITLES = {
    "teacher_forced": "Reference as prefix (teacher-forced)",
    "inference": "Own output (inference)",
    "inference_word_product": "Own output by words (product of tokens)",
}
"""of the calibration blocks that a page shows"""
DRAWN = ("teacher_forced", "inference")
"""calibration blocks that have a diagram, and a second block after recalibration"""


@dataclass(frozen=True)
class Evaluation:
    """What the folder of an evaluation holds. Older versions wrote other keys as well: whatever a page does not know
    stays out, and what it knows may be missing."""

    folder: Path
    results: Results
    records: list[Record]

    @property
    def name(self) -> str:
        """The model's name, or the folder's."""
        return str((self.results.get("model") or {}).get("name") or self.folder.resolve().name)

    @property
    def blocks(self) -> dict[str, Block]:
        """The calibration blocks that have something to show; those after recalibration are named `recalibrated_…`."""
        before, after = self.results.get("calibration") or {}, self.results.get("recalibrated") or {}
        ordered: dict[str, Block] = {}
        for name in TITLES:
            if block := before.get(name):
                ordered[name] = block
            if name in DRAWN and after.get(name):
                ordered[f"recalibrated_{name}"] = after[name]
        return ordered

    @property
    def search_grid(self) -> Sequence[Mapping[str, Any]]:
        """Figures for each beam size and length penalty; without such a grid those of the beam sizes."""
        if self.results.get("sweep"):
            return self.results["sweep"]
        decode = self.results.get("decode") or {}
        grid = []
        for beam, block in (self.results.get("beams") or {}).items():
            inference: Block = block["calibration"].get("inference") or {}
            entry = {name: decode.get(name) for name in ("length_penalty", "length_alpha")}
            entry |= {"beam": int(beam), "bleu": block["bleu"]["score"], "length_ratio": block["length_ratio"]}
            entry |= {"empties": block["empties"], "ece_inference": inference.get("ece")}
            grid.append(entry | {"ece_eos": (inference.get("eos") or {}).get("ece")})
        return grid

    @property
    def threshold(self) -> float | None:
        """The confidence that calibrate found for flagging lines, where results.json tells one."""
        thresholds = (self.results.get("recalibrated") or {}).get("thresholds") or []
        return next((each["confidence"] for each in thresholds if each.get("confidence") is not None), None)


def read_evaluation(folder: Path) -> Evaluation:
    """Reads `results.json` and `records.jsonl`. Raises UserError where one of them is missing or is not what evaluate
    writes."""
    path, part = folder / "results.json", "results"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(results, dict):
            raise UserError(f"not the results of an evaluation: {path}; run evaluate again")
        path, part = folder / "records.jsonl", "records"
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the {part} of an evaluation: {path}: {error}; run evaluate again") from error
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict) or not {"line", "translation"} <= record.keys():
            raise UserError(f"{path}, line {number}: not a record of an evaluation; run evaluate again")
    return Evaluation(folder, cast(Results, results), records)


def title_of(name: str) -> str:
    """The title of a calibration block."""
    bare = name.removeprefix("recalibrated_")
    return TITLES[bare] + (", recalibrated" if bare != name else "")
