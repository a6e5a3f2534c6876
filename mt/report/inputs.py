"""The files of an evaluation, read for its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mt.errors import UserError
from mt.evaluation.records import Record, read_measured_records
from mt.evaluation.results import Results, sweep_row
from mt.files.json_file import check_listed, read_json

Block = Mapping[str, Any]
"""a calibration block, mt.metrics.bins.CalibrationBlock; one of an older version may lack keys"""
TITLES = {"teacher_forced": "Teacher-forced", "inference": "Output"}
"""of the calibration blocks that a page shows"""


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
        """The calibration blocks that have something to show; those after recalibration are named `recalibrated_…`, and
        left out where it changed nothing."""
        before = self.results.get("calibration") or {}
        after: Mapping[str, Any] = self.results.get("recalibrated") or {}
        ordered: dict[str, Block] = {}
        for name in TITLES:
            if block := before.get(name):
                ordered[name] = block
            block = after.get(name)
            if block and any(block[key] != (before.get(name) or {}).get(key) for key in ("ece", "confidence")):
                ordered[f"recalibrated_{name}"] = block
        return ordered

    @property
    def target_language(self) -> str:
        """What chose BLEU's tokeniser; empty where that is not known."""
        return str((self.results.get("data") or {}).get("target_language") or "")

    @property
    def search_grid(self) -> Sequence[Mapping[str, Any]]:
        """Figures for each beam size and length penalty; without such a grid those of the beam sizes."""
        if self.results.get("sweep"):
            return self.results["sweep"]
        decode, beams = self.results.get("decode") or {}, self.results.get("beams") or {}
        search = {name: decode.get(name) for name in ("length_penalty", "length_alpha")}
        return [sweep_row(int(beam), search, block, {}) for beam, block in beams.items()]

    @property
    def threshold(self) -> tuple[str, float | None]:
        """What lines are flagged by, confidence or quality, and below which; None: results.json tells none."""
        promises = (self.results.get("recalibrated") or {}).get("promises") or ()
        known = [(each["by"], each["threshold"]) for each in promises if each["by"] in ("confidence", "quality")]
        return next((each for each in known if each[1] is not None), ("confidence", None))


def read_evaluation(folder: Path) -> Evaluation:
    """Reads `results.json` and `records.jsonl`. Raises UserError where one of them is missing, is not what evaluate
    writes, or does not belong to the other."""
    path, remedy = folder / "results.json", "run evaluate again"
    read_json(path, Results, remedy)
    results = read_json(path, dict[str, Any], remedy)  # with what other versions wrote
    check_listed(path, remedy)
    records = read_measured_records(folder / "records.jsonl", remedy)
    if (lines := (results.get("data") or {}).get("lines", len(records))) != len(records):  # of earlier versions
        raise UserError(f"{path} is of {lines} lines, records.jsonl beside it of {len(records)}; {remedy}")
    if "bleu" not in results:
        raise UserError(f"{path}: does not hold the results of an evaluation; {remedy}")
    return Evaluation(folder, cast(Results, results), records)


def title_of(name: str) -> str:
    """The title of a calibration block."""
    bare = name.removeprefix("recalibrated_")
    return TITLES[bare] + (", recalibrated" if bare != name else "")
