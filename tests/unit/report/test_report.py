"""The page: complete without network, small, and markup of a corpus stays text."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mt.errors import UserError
from mt.report.report import write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" 'single' & amp; <!-- comment",
    "line\u2028separator \u0000 \ud800 ]]>",
]


def calibration(tokens: int, bins: int) -> dict[str, Any]:
    filled = [
        {"low": i / bins, "high": (i + 1) / bins, "count": tokens // bins, "confidence": (i + 0.5) / bins,
         "accuracy": 0.9 * (i + 0.5) / bins}
        for i in range(bins)
    ]  # fmt: skip
    return {"tokens": tokens, "ece": 0.05, "mce": 0.1, "nll": 1.2, "brier": 0.3, "accuracy": 0.45,
            "confidence": 0.5, "bins": filled, "signature": f"ece|bins:{bins}|edges:(l,r]"}  # fmt: skip


def quality(score: float) -> dict[str, Any]:
    blocks = {
        key: {"score": score, "low": score - 1, "high": score + 1, "signature": f"nrefs:1|name:{key}"}
        for key in ("bleu", "chrf", "ter")
    }
    return {**blocks, "bleu_tokenized_lowercased": {"score": score + 1, "signature": "tok:none"},
            "length_ratio": 0.98, "empties": 1}  # fmt: skip


def results() -> dict[str, Any]:
    inference = calibration(2000, 20) | {"without_eos": calibration(1800, 20), "eos": calibration(200, 20)}
    return {
        **quality(40.0), "beam": 5,
        "calibration": {"teacher_forced": calibration(3000, 15), "inference": inference},
        "beams": {"1": {**quality(38.0), "calibration": {"inference": inference}},
                  "5": {**quality(40.0), "calibration": {"inference": inference}}},
        "model": {"name": "demo <b>bold</b>", "step": 100, "loss": None},
        "data": {"source": "test.de", "references": ["test.en"], "lines": 200},
    }  # fmt: skip


def records(count: int, words: int = 13) -> list[dict[str, Any]]:
    chooser = random.Random(1)
    vocabulary = ["▁a", "▁man", "▁woman", "▁is", "▁walk", "ing", "▁in", "▁the", "▁park", "▁dog", "s", "▁playing"]
    made = []
    for line in range(count):
        tokens = [*chooser.choices(vocabulary, k=words), "</s>"]
        confidences = [round(chooser.betavariate(4, 1), 4) for _ in tokens]
        text = "".join(tokens[:-1]).replace("▁", " ").strip()
        made.append({
            "line": line, "source": "Ein Mann und eine Frau gehen im Park mit dem Hund spazieren.", "translation": text,
            "reference": text, "tokens": tokens, "token_confidence": confidences, "log_probs": [-0.1] * len(tokens),
            "confidence": sum(confidences) / len(confidences), "score": -0.2, "chrf": 100 * chooser.random(),
            "correct": [chooser.random() < 0.8 for _ in tokens],
        })  # fmt: skip
    return made


def write(folder: Path, result: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(result), encoding="utf-8")
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return write_report(folder).read_text(encoding="utf-8")


class Scripts(HTMLParser):
    """Collects the tags of a page and the text of its script elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.inside = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        self.inside = tag == "script"
        if self.inside:
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


def test_markup_in_a_corpus_stays_text(tmp_path: Path) -> None:
    lines = records(len(HOSTILE))
    for line, text in zip(lines, HOSTILE):
        line.update(source=text, reference=text, tokens=[text, *line["tokens"][1:]])
    plain = {"line": 9, "source": HOSTILE[0], "translation": HOSTILE[1], "reference": HOSTILE[2]}
    result = results()
    result["data"]["references"] = [HOSTILE[0]]
    result["data"]["source"] = HOSTILE[1]
    page = write(tmp_path, result, [*lines, plain])
    scripts = Scripts(page)
    assert len(scripts.texts) == 2 and "img" not in scripts.tags and "b" not in scripts.tags
    assert "alert(1)</script>" not in page and "onerror=alert(2)>" not in page and "\u2028" not in page
    rows = json.loads(scripts.texts[0])
    assert [row["s"] for row in rows] == [*HOSTILE[:3], HOSTILE[3].replace("\ud800", "?"), HOSTILE[0]]
    assert rows[-1]["h"] == HOSTILE[1]


def test_page_shows_the_figures_and_loads_nothing(tmp_path: Path) -> None:
    page = write(tmp_path, results(), records(20))
    for text in ("40.00", "39.00 to 41.00", "38.00", "0.0500", "nrefs:1|name:chrf", "ece|bins:20"):
        assert text in page
    assert "end of sentence only" in page
    assert page.count("<svg ") == 2
    drawn = (tmp_path / "figures" / "reliability_inference.svg").read_text(encoding="utf-8")
    assert drawn.strip() in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "@import" not in page and "url(http" not in page


def test_three_thousand_sentences_stay_under_three_megabytes(tmp_path: Path) -> None:
    page = write(tmp_path, results(), records(3000))
    assert len(page.encode()) < 3_000_000
    assert len(json.loads(Scripts(page).texts[0])) == 3000


def test_of_too_much_text_the_least_confident_is_shown_and_the_page_says_so(tmp_path: Path) -> None:
    lines = records(3000, words=60)
    page = write(tmp_path, results(), lines)
    assert len(page.encode()) < 3_000_000
    shown = json.loads(Scripts(page).texts[0])
    assert 0 < len(shown) < 3000
    assert f"{len(shown)} least confident of 3000" in page
    left_out = {line["line"] + 1 for line in lines} - {row["n"] for row in shown}
    assert max(row["c"] for row in shown) <= min(round(1000 * lines[n - 1]["confidence"]) for n in left_out)


def test_page_can_be_made_without_probabilities_or_beams(tmp_path: Path) -> None:
    result = results() | {"calibration": {"teacher_forced": None, "inference": None}, "beams": {}, "beam": None}
    page = write(tmp_path, result, [{"line": 0, "source": "a", "translation": "b", "reference": "c"}])
    assert "nothing to measure" in page and "<svg" not in page
    assert json.loads(Scripts(page).texts[0]) == [{"n": 1, "s": "a", "r": ["c"], "c": None, "q": None, "h": "b"}]


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    assert write(tmp_path / "a", results(), records(5)) == write(tmp_path / "b", results(), records(5))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "records.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=r"records\.jsonl"):
        write_report(tmp_path)


def test_report_needs_no_torch() -> None:
    check = "import sys, mt.report.report, mt.report.figures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
