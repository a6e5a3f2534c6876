"""docs/study.md says what the committed results say."""

from __future__ import annotations

from pathlib import Path

from tools.studies.answers import read_results
from tools.studies.page import table, times

DOCS = Path(__file__).resolve().parents[3] / "docs"
RESULTS = read_results(DOCS / "study" / "results.json")


def test_each_question_is_answered_with_its_verdict() -> None:
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    for name, question in RESULTS["questions"].items():
        assert f"**{name}. {question['statement']}** *{question['verdict']}*" in text
        assert f"| {name} | {question['statement']} | {question['verdict']} |" in text


def test_the_tables_are_those_of_the_results() -> None:
    assert (DOCS / "study" / "table.md").read_text(encoding="utf-8") == table(RESULTS)
    assert (DOCS / "study" / "times.md").read_text(encoding="utf-8") == times(RESULTS)


def test_every_figure_that_the_page_shows_is_there() -> None:
    text = (DOCS / "study.md").read_text(encoding="utf-8")
    shown = {part.partition(")")[0] for part in text.split("(study/")[1:]}
    assert {name for name in shown if name.endswith(".svg")} <= {path.name for path in (DOCS / "study").glob("*.svg")}
    assert len(shown) > 5
