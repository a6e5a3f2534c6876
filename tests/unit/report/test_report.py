"""The page: complete without network, small, and markup of a corpus stays text."""

from __future__ import annotations

import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mt.errors import UserError
from mt.report.inputs import Evaluation
from mt.report.page import write_report
from mt.report.translations import spelled

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"quotes\" 'single' & amp; <!-- comment",
    "line\u2028separator \u0000 \ud800 ]]>",
]


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is tested elsewhere, and takes its time."""
    monkeypatch.setattr("mt.report.figures.svg_element", lambda name, draw, description: "<svg></svg>")


def calibration(tokens: int, bins: int) -> dict[str, Any]:
    filled = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "count": tokens // bins,
            "confidence": (i + 0.5) / bins,
            "accuracy": 0.9 * (i + 0.5) / bins,
        }
        for i in range(bins)
    ]
    return {
        "tokens": tokens,
        "ece": 0.05,
        "mce": 0.1,
        "nll": 1.2,
        "brier": 0.3,
        "accuracy": 0.45,
        "confidence": 0.5,
        "bins": filled,
        "signature": f"ece|bins:{bins}|edges:(l,r]",
    }


def quality(score: float) -> dict[str, Any]:
    blocks = {
        key: {"score": score, "low": score - 1, "high": score + 1, "signature": f"nrefs:1|name:{key}"}
        for key in ("bleu", "chrf", "ter")
    }
    return {
        **blocks,
        "bleu_tokenized_lowercased": {"score": score + 1, "signature": "tok:none"},
        "length_ratio": 0.98,
        "empties": 1,
    }


def results() -> dict[str, Any]:
    inference = calibration(2000, 20) | {"without_eos": calibration(1800, 20), "eos": calibration(200, 20)}
    return {
        **quality(40.0),
        "beam": 5,
        "calibration": {"teacher_forced": calibration(3000, 15), "inference": inference},
        "beams": {
            "1": {**quality(38.0), "calibration": {"inference": inference}},
            "5": {**quality(40.0), "calibration": {"inference": inference}},
        },
        "model": {"name": "demo <b>bold</b>", "step": 100, "loss": None},
        "data": {"source": "test.de", "references": ["test.en"], "lines": 200},
    }


def records(count: int, words: int = 13) -> list[dict[str, Any]]:
    chooser = random.Random(1)
    vocabulary = ["▁a", "▁man", "▁woman", "▁is", "▁walk", "ing", "▁in", "▁the", "▁park", "▁dog", "s", "▁playing"]
    made = []
    for line in range(count):
        tokens = [*chooser.choices(vocabulary, k=words), "</s>"]
        confidences = [round(chooser.betavariate(4, 1), 4) for _ in tokens]
        text = "".join(tokens[:-1]).replace("▁", " ").strip()
        made.append(
            {
                "line": line,
                "source": "Ein Mann und eine Frau gehen im Park mit dem Hund spazieren.",
                "translation": text,
                "reference": text,
                "tokens": tokens,
                "token_confidence": confidences,
                "log_probs": [-0.1] * len(tokens),
                "confidence": sum(confidences) / len(confidences),
                "score": -0.2,
                "chrf": 100 * chooser.random(),
                "correct": [chooser.random() < 0.8 for _ in tokens],
            }
        )
    return made


def write(folder: Path, result: dict[str, Any], lines: list[dict[str, Any]]) -> str:
    folder.mkdir(exist_ok=True)
    result = result | {"data": result["data"] | {"lines": len(lines)}} if "data" in result else result
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


def test_markup_in_a_corpus_stays_text(tmp_path: Path, no_figures: None) -> None:
    lines = records(len(HOSTILE))
    for line, text in zip(lines, HOSTILE):
        line.update(source=text, reference=text, tokens=[text, *line["tokens"][1:]])
    plain = {"line": len(HOSTILE), "source": HOSTILE[0], "translation": HOSTILE[1], "reference": HOSTILE[2]}
    result = results()
    result["data"]["references"] = [HOSTILE[0]]
    result["data"]["source"] = HOSTILE[1]
    page = write(tmp_path, result, [*lines, plain])
    scripts = Scripts(page)
    assert len(scripts.texts) == 2 and "img" not in scripts.tags and "b" not in scripts.tags
    assert "alert(1)</script>" not in page and "onerror=alert(2)>" not in page and "\u2028" not in page
    data = json.loads(scripts.texts[0])
    assert [row["s"] for row in data["rows"]] == [*HOSTILE[:3], HOSTILE[3].replace("\ud800", "\ufffd"), HOSTILE[0]]
    assert data["rows"][-1]["o"][0]["h"] == HOSTILE[1] and HOSTILE[0] in data["vocabulary"]


def test_page_shows_the_figures_and_loads_nothing(tmp_path: Path) -> None:
    page = write(tmp_path, results(), records(20))
    for text in ("40.00", "39.00 to 41.00", "38.00", "0.0500", "nrefs:1|name:chrf", "ece|bins:20"):
        assert text in page
    assert "end of sentence only" in page
    assert page.count("<svg ") == 2 + 5  # two diagrams, and the curves against the two beam sizes
    order = [
        page.index(part)
        for part in (
            "<figure>",
            'id="translations"',
            'id="figures"',
            '<table class="dense">\n<thead><tr><th scope="col">tokens of',
        )
    ]
    assert order == sorted(order)
    drawn = (tmp_path / "figures" / "reliability_inference.svg").read_text(encoding="utf-8")
    assert drawn.count("<path ") > 50 and 'fill="#fff"' in drawn and "currentColor" not in drawn
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "@import" not in page and "url(http" not in page


def test_three_thousand_sentences_stay_under_three_megabytes(tmp_path: Path, no_figures: None) -> None:
    page = write(tmp_path, results(), records(3000))
    assert len(page.encode()) < 3_000_000
    assert len(json.loads(Scripts(page).texts[0])["rows"]) == 3000


def test_of_too_much_text_the_least_confident_is_shown_and_the_page_says_so(tmp_path: Path, no_figures: None) -> None:
    lines = records(3000, words=60)
    page = write(tmp_path, results(), lines)
    assert len(page.encode()) < 3_000_000
    shown = json.loads(Scripts(page).texts[0])["rows"]
    assert 0 < len(shown) < 3000
    assert f"{len(shown)} least confident of 3000" in page
    left_out = {line["line"] + 1 for line in lines} - {row["n"] for row in shown}
    assert max(row["o"][0]["c"] for row in shown) <= min(round(10_000 * lines[n - 1]["confidence"]) for n in left_out)


def test_page_can_be_made_without_probabilities_or_beams(tmp_path: Path) -> None:
    result = results() | {"calibration": {"teacher_forced": None, "inference": None}, "beams": {}, "beam": None}
    page = write(tmp_path, result, [{"line": 0, "source": "a", "translation": "b", "reference": "c"}])
    assert "nothing to measure" in page and "<svg" not in page
    data = json.loads(Scripts(page).texts[0])
    assert data["rows"] == [
        {"n": 1, "s": "a", "r": ["c"], "o": [{"c": None, "q": None, "b": None, "e": None, "h": "b"}]}
    ]


def row_of(page: str, line: int = 0) -> tuple[dict[str, Any], list[str]]:
    data = json.loads(Scripts(page).texts[0])
    return data["rows"][line]["o"][0], data["vocabulary"]


def test_a_row_tells_confidence_labels_alternatives_and_what_the_model_said_itself(
    tmp_path: Path, no_figures: None
) -> None:
    record = {
        "line": 0,
        "source": "x",
        "translation": "a man",
        "reference": "a man",
        "tokens": ["▁a", "▁man", "</s>"],
        "token_confidence": [0.5, 0.25, 0.9],
        "log_probs": [-0.105361, -1.386294, -0.105361],
        "confidence": 0.55,
        "correct": [True, False, True],
        "chrf": 81.26,
        "bleu": 42.0,
        "quality": 61.26,
        "quality_low": 40.4,
        "quality_high": 79.6,
        "flagged": True,
        "alternatives": [[["▁a", -0.1], ["▁the", -2.302585]], [["▁dog", -0.693147]], []],
    }
    row, words = row_of(write(tmp_path, results(), [record]))
    assert [words[index] for index in row["t"]] == record["tokens"]
    assert row["p"] == [5000, 2500, 9000] and row["u"] == [9000, 2500, 9000] and row["w"] == "101"
    assert [[words[each[0]], each[1]] if each else [] for each in row["a"]] == [["▁the", 1000], ["▁dog", 5000], []]
    assert (row["c"], row["q"], row["b"], row["f"]) == (5500, 81.3, 42.0, 1) and "h" not in row
    assert (row["e"], row["i"]) == (61.3, [40, 80])


def test_probabilities_that_no_map_changed_stand_once(tmp_path: Path, no_figures: None) -> None:
    record = records(1)[0]
    record["log_probs"] = [math.log(confidence) for confidence in record["token_confidence"]]
    assert "u" not in row_of(write(tmp_path, results(), [record]))[0]


def test_tokens_that_do_not_spell_the_translation_leave_it_there(tmp_path: Path, no_figures: None) -> None:
    lines = records(2)
    lines[0]["translation"] = "something else"
    page = write(tmp_path, results(), lines)
    assert row_of(page, 0)[0]["h"] == "something else" and "h" not in row_of(page, 1)[0]


@pytest.mark.parametrize(
    ("tokens", "text"),
    [(["▁a", "b", "▁c", "</s>"], "ab c"), (["a", "b", "</s>"], "a b"), (["</s>"], ""), (["a▁b"], "a b")],
)
def test_tokens_spell_by_their_marks_or_as_words(tokens: list[str], text: str) -> None:
    assert spelled(tokens) == text


def test_alternatives_are_the_first_to_go_when_space_is_short(tmp_path: Path, no_figures: None) -> None:
    lines = records(3000, words=22)
    for line in lines:
        line["alternatives"] = [[["▁alternative", -1.0], ["▁another", -2.0], ["▁third", -3.0]]] * len(line["tokens"])
    page = write(tmp_path, results(), lines)
    data = json.loads(Scripts(page).texts[0])
    assert len(page.encode()) < 3_000_000 and len(data["rows"]) == 3000
    assert all("a" not in row["o"][0] for row in data["rows"])


def full_results() -> dict[str, Any]:
    """Everything that results.json may hold."""
    made = results()
    group = {"name": "1-9", "tokens": 10, "confidence": 0.5, "accuracy": 0.4, "ece": 0.1, "noise_floor": 0.0777}
    further = {
        "noise_floor": 0.0123,
        "noise_floor_high": 0.0234,
        "ece_low": 0.0345,
        "ece_high": 0.0456,
        "miscalibration": 0.0067,
        "discrimination": 0.0456,
        "uncertainty": 0.2345,
        "augrc": 0.0912,
        "prr": 0.512,
        "auroc": 0.765,
        "signed_gap": 0.05,
        "breakdown": {"frequency": [group]},
    }
    block = made["calibration"]["inference"] | further
    made["calibration"]["inference"] = block
    after = block | {"ece": 0.0111}
    promise = {"chrf": 45, "precision": 0.9, "by": "quality", "threshold": 52.25, "lines": 412, "coverage": 0.44}
    made["recalibrated"] = {
        "teacher_forced": block | {"ece": 0.0222},
        "inference": after,
        "map": {"temperature": 1.375},
        "promises": [promise | {"reached": 0.915, "low": 0.884, "high": 0.938, "kept": True}],
    }
    made["fit"] = {"unlike": True, "distances": {"source_length": -1.42}, "text": "This text is <unlike> the other."}
    made["quality"] = {"spearman": 0.642, "coverage": 0.903, "width": 41.25, "prr": 0.557}
    made["sequence"] = {
        "correlation": {"chrf": 0.411, "bleu": 0.322, "ter": -0.233},
        "selective": [{"coverage": 0.5, "lines": 10, "confidence": 0.987, "chrf": 71.25, "bleu": 51.5, "ter": 31.75}],
        "prr": 0.587,
        "nbest": None,
    }
    made["sweep"] = [
        {
            "beam": beam,
            "length_penalty": "gnmt",
            "length_alpha": 0.6,
            "bleu": 33.0 + beam,
            "length_ratio": 0.98,
            "empties": 0,
            "repetitions": 3,
            "ece_inference": 0.04,
            "ece_teacher_forced": 0.03,
            "ece_eos": 0.02,
            "mean_score": -0.5,
        }
        for beam in (1, 5)
    ]
    made["config"] = {"train": {"max_steps": 1200}, "run_dir": ""}
    made["evaluation"] = {
        "date": "2026-11-27 00:54:53+00:00",
        "command": "mt evaluate model --beams 1",
        "lines_per_second": 424.5,
        "versions": {"torch": "2.9"},
    }
    made["truth"] = {
        "bleu_of_likeliest": 61.75,
        "bleu_of_minimum_risk": 62.25,
        "entropy": 0.7125,
        "truth_nll": 0.7225,
        "nll": 0.8125,
        "kl": 0.1235,
        "exact_ece": 0.0198,
        "exact_error": 0.0321,
        "maps": {"link": {"kl": 0.0555}},
        "estimates": {"ece": 0.0298, "noise_floor": 0.0043},
    }
    return made


def test_all_that_results_may_hold_stands_in_the_page(tmp_path: Path) -> None:
    page = write(tmp_path, full_results(), records(5))
    for text in (
        "0.0123",
        "up to 0.0234",
        "0.0345 to 0.0456",
        "0.0067",
        "0.0456",
        "0.2345",
        "0.0912",
        "0.512",
        "0.765",
        "0.0777",
        "0.0111",
        "1.375",
        "0.411",
        "0.322",
        "−0.233",
        "0.587",
        "71.25",
        "expected chrF ≥ 52.25",
        "44\u00a0%",
        "91.5\u00a0%",
        "88.4\u00a0% to 93.8\u00a0%",
        ">kept<",
        "This text is &lt;unlike&gt; the other.",
        "−1.42",
        "0.642",
        "90.3\u00a0%",
        "41.2",
        "0.557",
        "gnmt 0.6",
        "38.00",
        "61.75",
        "62.25",
        "0.7125",
        "0.7225",
        "0.1235",
        "0.0198",
        "0.0555",
        "−0.500",
        "0.0321",
        "0.0298",
        "+0.0100",
        "0.0043",
        "confidence from</th>",
        "0.987",
        "2026-11-27 00:54:53+00:00",
        "mt evaluate model --beams 1",
        "424.5",
        "torch: 2.9",
        "max_steps: 1200",
    ):
        assert text in page, text
    drawn = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert drawn == {
        "reliability_teacher_forced",
        "reliability_inference",
        "reliability_recalibrated_teacher_forced",
        "reliability_recalibrated_inference",
        "selective_chrf",
        "selective_bleu",
        "selective_ter",
        *(f"sweep_{number}" for number in range(1, 7)),
    }
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_what_is_0_or_says_nothing_is_left_out(tmp_path: Path, no_figures: None) -> None:
    made = full_results()
    made["empties"] = 0
    made["decode"] = {"length_penalty": "none", "lines_overlong": 0}
    made["recalibrated"]["inference"] = made["calibration"]["inference"]  # the map that was picked is none
    made["truth"]["maps"] = {"link": {"kl": 0.1235}, "link_temperature": {"kl": 0.0555}, "temperature": {"kl": 0.05}}
    page = write(tmp_path, made, records(3))
    assert "length penalty</dt>" in page and "lines overlong" not in page
    assert "empty translation</span>" not in page and "empty translations</th>" not in page
    assert "Output, recalibrated" not in page and "Teacher-forced, recalibrated" in page
    assert "after temperature" in page and "inverse link" not in page and "link and temperature" not in page
    made["empties"], made["sweep"][0]["empties"] = 2, 1
    page = write(tmp_path, made, records(3))
    assert "2 empty translations</span>" in page and "empty translations</th>" in page


def test_probabilities_and_errors_are_numbers_and_only_shares_of_lines_are_percentages(tmp_path: Path) -> None:
    page = write(tmp_path, full_results(), records(3))
    text = re.sub(r"<[^>]+>", " ", page.split('id="summary"')[1].split('id="selection"')[0])
    assert set(re.findall(r"[\d.]+[ \u00a0]%", text)) == {"95 %"}  # of intervals
    sentence = " ".join(re.search(r"The system gives.*?on average\.", text, re.DOTALL)[0].split())
    assert "a probability of 0.500 on average" in sentence and "over-confident by 0.050" in sentence


def test_both_marks_of_a_breakdown_stand_at_their_place(tmp_path: Path, no_figures: None) -> None:
    page = write(tmp_path, full_results(), records(2))
    drawn = ElementTree.fromstring(re.findall(r'<svg class="dumbbell".*?</svg>', page)[0])
    assert [circle.get("cx") for circle in drawn.iter("circle")] == ["48.8", "60.0"]  # 4 + 112 * (0.4, 0.5)


def test_figures_of_older_versions_stay_out_of_the_page(tmp_path: Path, no_figures: None) -> None:
    made = full_results()
    block = made["calibration"]["inference"]
    block |= {
        "ece_debiased": 0.0678,
        "ece_mass": 0.0789,
        "risk_coverage": {"coverage": [1], "risk": [0.2], "aurc": 0.1},
    }
    block["breakdown"]["position"] = block["breakdown"]["frequency"]
    made["calibration"] |= {"inference_word_minimum": block, "inference_word_product": block}
    made["truth"]["estimates"] |= {"ece_mass": 0.0188, "ece_debiased": 0.0189}
    made["sequence"]["half"] = {"chrf": 67.125, "random_mean": 61.875, "p": 0.0001}
    page = write(tmp_path / "old", made, records(2))
    assert page == write(tmp_path / "new", full_results(), records(2))


PARTS = [
    "sweep",
    "truth",
    "sequence",
    "recalibrated",
    "beams",
    "decode",
    "chrf",
    "ter",
    "fit",
    "quality",
    "calibration",
]


@pytest.mark.parametrize("missing", PARTS)
def test_every_part_of_results_may_be_missing(tmp_path: Path, missing: str, no_figures: None) -> None:
    made = full_results()
    made.pop(missing, None)
    assert "Evaluation of demo" in write(tmp_path, made, records(2))


def test_what_an_older_evaluation_did_not_measure_is_a_dash_or_left_out(tmp_path: Path, no_figures: None) -> None:
    page = write(tmp_path, results(), records(2))
    table = page.split('aria-label="Calibration"')[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tbody>")[1].split("</tr>")[:-1]]
    assert rows == [[name, "0.0500", "–", "–", "1.200", "0.300", "–", "–"] for name in ("Teacher-forced", "Output")]
    assert 'role="note"' not in page and "promised" not in page and "– to" not in page


def test_links_of_the_page_lead_to_its_parts(tmp_path: Path, no_figures: None) -> None:
    for made in (full_results(), results()):
        page = write(tmp_path, made, records(2))
        assert set(re.findall(r'href="#([^"]+)"', page)) <= set(re.findall(r' id="([^"]+)"', page))


@pytest.mark.parametrize(
    ("after", "flagged"),
    [
        ({}, ("confidence", None)),
        ({"promises": [{"by": "confidence", "threshold": 0.8}]}, ("confidence", 0.8)),
        ({"promises": [{"by": "quality", "threshold": None}, {"by": "quality", "threshold": 52.5}]}, ("quality", 52.5)),
        ({"promises": [{"by": "score", "threshold": -0.5}]}, ("confidence", None)),
    ],
)
def test_lines_are_flagged_below_the_first_threshold_that_was_found(after: Any, flagged: Any) -> None:
    assert Evaluation(Path(), {"recalibrated": after}, []).threshold == flagged


def test_the_bound_of_older_evaluations_is_the_likeliest_translation(tmp_path: Path, no_figures: None) -> None:
    made = full_results()
    del made["truth"]["bleu_of_minimum_risk"]
    made["truth"]["bleu_bound"] = made["truth"].pop("bleu_of_likeliest")
    page = write(tmp_path, made, records(2))
    assert "61.75" in page and "least risk" not in page


def test_an_empty_block_of_calibration_is_left_out() -> None:
    results: dict[str, Any] = {"calibration": {"teacher_forced": None, "inference": {"tokens": 1}}}
    assert list(Evaluation(Path(), results, []).blocks) == ["inference"]
    assert Evaluation(Path(), {}, []).blocks == {}


def test_the_same_input_gives_the_same_page(tmp_path: Path) -> None:
    assert write(tmp_path / "a", results(), records(5)) == write(tmp_path / "b", results(), records(5))


def test_an_empty_object_is_no_evaluation(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: does not hold"):
        write(tmp_path, {}, records(1))


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "records.jsonl").write_text("{broken\n")
    with pytest.raises(UserError, match=r"records\.jsonl"):
        write_report(tmp_path)
    (tmp_path / "records.jsonl").write_text('{"line": 0, "translation": "a"}\n["no record"]\n')
    with pytest.raises(UserError, match=r"records\.jsonl, line 2"):
        write_report(tmp_path)


def test_report_needs_no_torch() -> None:
    check = "import sys, mt.report.comparison, mt.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
