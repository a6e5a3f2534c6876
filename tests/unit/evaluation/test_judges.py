"""What is read of COMET's files, and how the confidence in lines is held against its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt.errors import UserError
from mt.evaluation.judges import Judges


def records(count: int = 4) -> list[dict[str, Any]]:
    return [
        {"line": n, "source": f"s{n}", "translation": f" t{n} ", "confidence": 0.9 - n / 10, "quality": 50.0 + n}
        for n in range(count)
    ]


def segments(count: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """As comet-score writes them: lines are stripped, the score is COMET, lines without errors have no `errors`."""
    return [{"src": f"s{n}", "mt": f"t{n}", "ref": "r", "COMET": 0.8 - n / 10, **changes} for n in range(count)]


def write(path: Path, systems: Any) -> Path:
    path.write_text(json.dumps(systems, indent=4), encoding="utf-8")
    return path


def test_scores_become_a_mean_with_its_interval_and_what_confidence_tells_of_them(tmp_path: Path) -> None:
    chooser, lines = np.random.default_rng(0), 200
    scores = chooser.normal(0.7, 0.1, lines)
    noise = chooser.normal(0, 0.1, lines)
    given = [
        {"line": n, "source": "s", "translation": "t", "confidence": float(np.clip(scores[n] + noise[n], 0, 1))}
        for n in range(lines)
    ]
    path = write(tmp_path / "comet.json", {"a.txt": [{"src": "s", "mt": "t", "COMET": each} for each in scores]})
    judges = Judges({"comet": path}, lines=lines)
    judges.mark(given)
    block = judges.results(given, resamples=1000, seed=1)["scores"]["comet"]
    assert block["score"] == pytest.approx(scores.mean()) and block["file"] == "comet.json"
    error = scores.std() / lines**0.5
    assert block["low"] == pytest.approx(scores.mean() - 1.96 * error, abs=0.2 * error)
    assert block["high"] == pytest.approx(scores.mean() + 1.96 * error, abs=0.2 * error)
    told, confidence = block["confidence"], np.array([each["confidence"] for each in given])
    good = scores >= np.median(scores)
    pairs = confidence[good][:, None] - confidence[~good]
    assert told["auroc"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean(), abs=0.01)
    assert told["threshold"] == pytest.approx(np.median(scores))
    ranks = [np.argsort(np.argsort(each)) for each in (confidence, scores)]
    assert told["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.01)
    assert 0 < told["prr"] < 1
    kept = [each["score"] for each in told["selective"]]
    assert len(kept) == 10 and kept[0] > kept[-1] == pytest.approx(scores.mean())
    assert block["quality"] is None and judges.results(given, resamples=0, seed=1)["scores"]["comet"]["low"] is None


def test_the_order_of_confidence_is_what_counts(tmp_path: Path) -> None:
    given, judges = records(), Judges({"comet": write(tmp_path / "c.json", {"h": segments()})}, lines=4)
    judges.mark(given)
    block = judges.results(given, resamples=0, seed=1)["scores"]["comet"]
    assert [block["confidence"][key] for key in ("spearman", "auroc", "prr")] == pytest.approx([1, 1, 1])
    assert [block["quality"][key] for key in ("spearman", "auroc")] == pytest.approx([-1, 0])


def test_where_most_lines_have_the_best_score_these_are_the_good_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"h": [*segments(3, COMET=1.0), segments(4)[3]]})
    given, judges = records(), Judges({"comet": path}, lines=4)
    judges.mark(given)
    told = judges.results(given, resamples=0, seed=1)["scores"]["comet"]["confidence"]
    assert (told["threshold"], told["auroc"]) == (1.0, pytest.approx(1))


def test_spans_of_errors_stand_in_the_records(tmp_path: Path) -> None:
    errors = [{"text": "t", "confidence": 0.5, "severity": "major", "start": 0, "end": 1}]
    path = write(tmp_path / "c.json", {"h": [*segments(3), segments(4, errors=errors)[3]]})
    given, judges = records(), Judges({"xcomet": path}, lines=4)
    judges.mark(given)
    assert given[0]["judged"] == {"xcomet": {"score": 0.8, "errors": []}}
    assert given[3]["judged"]["xcomet"]["errors"] == [{"start": 0, "end": 1, "severity": "major", "confidence": 0.5}]
    assert judges.results(given, resamples=0, seed=1)["scores"]["xcomet"]["errors"] == {"major": 1}


def test_of_several_systems_the_one_with_our_translations_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "c.json", {"a": segments(mt="other", COMET=0.1), "b": segments()})
    given = records()
    Judges({"comet": path}, lines=4).mark(given)
    assert [each["judged"]["comet"]["score"] for each in given] == pytest.approx([0.8, 0.7, 0.6, 0.5])


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        ({"h": segments(3)}, "c.json, h, has 3 lines and the test set has 4"),
        ({"h": [*segments(2), *segments(2)]}, "c.json: line 3 of h has another translation; score DIR/hypotheses.txt"),
        ({"h": segments(src="other")}, "c.json: line 1 of h has another source; score DIR/hypotheses.txt, then"),
        ({}, "c.json: holds no translations"),
        ({"h": [{"src": "s", "mt": "t"}]}, "c.json: not as expected"),
        ([1], "c.json: not as expected"),
    ],
)
def test_scores_of_other_lines_are_told_in_one_line(tmp_path: Path, systems: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        Judges({"comet": write(tmp_path / "c.json", systems)}, lines=4).mark(records())
    assert said in str(error.value) and "\n" not in str(error.value)
