"""Other judges of an output: scores of lines that COMET has written, and labels of people in place of alignment.

COMET does not live in this environment (it pins older versions of the same libraries), so it is spoken to by files:
what `comet-score --to_json` writes, scores of the lines and, of models that find them, spans with errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta, Struct, field

from mt.errors import UserError
from mt.evaluation.people import HumanLabels
from mt.evaluation.records import Record
from mt.evaluation.sentences import rejection_ratio, spearman
from mt.files.json_file import parse_json, read_bytes
from mt.files.lines import check_equally_many
from mt.metrics.noise import Floats, resampled_counts
from mt.metrics.ranks import ConfidenceHistogram

_REMEDY = "give what comet-score --to_json wrote"
_SCORED = "score DIR/hypotheses.txt, then evaluate again"


class _Error(Struct):
    start: Annotated[int, Meta(ge=0)]
    end: Annotated[int, Meta(ge=0)]
    """the character behind the last"""
    severity: str = ""
    confidence: Annotated[float, Meta(ge=0, le=1.01)] | None = None  # of half precision


class _Segment(Struct):
    score: Annotated[float, Meta(ge=-1e6, le=1e6)] = field(name="COMET")
    mt: str
    src: str = ""
    errors: list[_Error] = field(default_factory=list)


class Judges:
    """What others say of the translations of a test set of so many lines.

    `scores`: files of comet-score, by the name that each gets; `labels`: a file of labels by people. Raises UserError
    where one cannot be read, is of another form, or of another number of lines.
    """

    def __init__(self, scores: Mapping[str, Path] | None = None, labels: Path | None = None, lines: int = 0) -> None:
        self._paths = scores or {}
        self._systems = {name: _read_scores(path, lines) for name, path in self._paths.items()}
        self._labels = HumanLabels(labels, lines) if labels else None
        self._labelled: dict[str, Any] | None = None

    def level(self, usual: str) -> str:
        """Of the labels, for signatures: `usual` where people gave none."""
        return "subword-labelled-by-people" if self._labels else usual

    def mark(self, records: Sequence[Record]) -> None:
        """Adds `judged`, by name, {"score", "errors"}, to the records, and the labels of people. Raises UserError where
        a judge has seen another source or translation."""
        for name, systems in self._systems.items():
            for record, segment in zip(records, self._matching(name, systems, records)):
                errors = [{key: getattr(each, key) for key in each.__struct_fields__} for each in segment.errors]
                record.setdefault("judged", {})[name] = {"score": segment.score, "errors": errors}
        if self._labels:
            self._labelled = self._labels.apply(records)

    def results(self, records: Sequence[Record], *, resamples: int, seed: int) -> dict[str, Any]:
        """`scores`, by name, and `labels` of results.json, as far as there are any."""
        scores = {}
        for name, path in self._paths.items():
            measured = _measure(name, records, resamples, seed)
            scores[name] = {"file": path.name, **measured}
        return ({"scores": scores} if scores else {}) | ({"labels": self._labelled} if self._labelled else {})

    def _matching(self, name: str, systems: dict[str, list[_Segment]], records: Sequence[Record]) -> list[_Segment]:
        """The segments of the first system whose texts are those of the records. COMET strips its lines."""
        path, unlike = self._paths[name], ""
        for system, segments in systems.items():
            for number, (record, segment) in enumerate(zip(records, segments), 1):
                ours = [str(record.get(each) or "").strip() for each in ("source", "translation")]
                theirs = segment.src.strip() or ours[0], segment.mt.strip()
                if theirs != (ours[0] or theirs[0], ours[1]):
                    what = "translation" if theirs[1] != ours[1] else "source"
                    unlike = unlike or f"line {number} of {system} has another {what}"
                    break
            else:
                return segments
        raise UserError(f"{path}: {unlike}; {_SCORED}")


def _read_scores(path: Path, lines: int) -> dict[str, list[_Segment]]:
    systems = parse_json(read_bytes(path, _REMEDY), dict[str, list[_Segment]], str(path), _REMEDY)
    if not systems:
        raise UserError(f"{path}: holds no translations; {_REMEDY}")
    for system, segments in systems.items():
        check_equally_many(f"{path}, {system},", len(segments), "the test set", lines)
    return systems


def _measure(name: str, records: Sequence[Record], resamples: int, seed: int) -> dict[str, Any]:
    """`score`: the mean, with `low` and `high`, its 95 % interval by resampling lines; `lines`; `errors`: number of
    spans by severity, as far as there are any; `confidence` and `quality`: what the system's own figures tell of the
    scores, see `_told`, None where a record has none."""
    scores = np.array([record["judged"][name]["score"] for record in records])
    low = high = None
    if resamples > 0:
        drawn = sorted(float(each @ scores) / len(scores) for each in resampled_counts(len(scores), resamples, seed))
        low, high = drawn[resamples // 40], drawn[-(resamples // 40) - 1]
    severities = [each["severity"] for record in records for each in record["judged"][name]["errors"]]
    errors = {severity: severities.count(severity) for severity in sorted({*severities})}
    block: dict[str, Any] = {"score": float(scores.mean()), "low": low, "high": high, "lines": len(scores)}
    block |= {"errors": errors} if errors else {}
    for figure, scale in (("confidence", 1), ("quality", 100)):
        known = len(records) > 1 and all(figure in record for record in records)
        own = np.array([record[figure] for record in records]) / scale if known else None
        block[figure] = None if own is None else _told(own, scores)
    return block


def _told(own: Floats, scores: Floats) -> dict[str, Any]:
    """Of a figure of the system, 0..1, for each line: `spearman` with the scores; `auroc`, the chance that a good line
    has more of it than another one, good being a score of `threshold`, the median, or more; `prr`, see
    `rejection_ratio`; `selective`: the mean `score` of the lines that have most of it. None where all are alike."""
    threshold, order = float(np.median(scores)), np.argsort(-own, kind="stable")
    ranks, selective = ConfidenceHistogram(), []
    ranks.update(own.clip(0, 1), (scores >= threshold).astype(np.float64))
    for coverage in (percent / 100 for percent in range(10, 101, 10)):
        kept = order[: max(1, round(coverage * len(order)))]
        selective.append({"coverage": coverage, "lines": len(kept), "score": float(scores[kept].mean())})
    return {
        "spearman": spearman(own, scores),
        "threshold": threshold,
        "auroc": ranks.figures()["auroc"],
        "prr": rejection_ratio(own, scores),
        "selective": selective,
    }
