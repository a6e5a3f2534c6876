"""Other judges of an output through the commands: COMET's file, labels of people, and tags for WMT's task."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from mt.cli.evaluate import main
from mt.cli.translate import main as translate
from mt.errors import UserError
from mt.metrics.labels import END, characters_of_tokens

SOURCES = ["ein Hund läuft 1", "", "die Frau liest ein Buch 2", "der Mann singt ein Lied", "\u2028 emoji 😀"]
REFERENCES = ["a dog runs 1", "", "the woman reads a book 2", "the man sings a song", "</script> & <b>"]
HEAD = "system\tdoc\tdoc_id\tseg_id\trater\tsource\ttarget\tcategory\tseverity"


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", newline="\n")
    return path


class Evaluated:
    """A folder with an evaluation of the tiny model, and the command that made it."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder, self.model = folder, model
        test = lines(folder / "test.de", SOURCES), lines(folder / "test.en", REFERENCES)
        self.text = ["--source", test[0], "--reference", test[1]]
        self.records = self.evaluate("first")[1]

    def evaluate(self, name: str, *more: Any, system: list[Any] | None = None) -> tuple[Any, list[dict[str, Any]]]:
        output = self.folder / name
        given = [*(system or [self.model, "--threads", 1]), *self.text, "--bootstrap", 50, "--output", output, *more]
        assert main([str(each) for each in given]) == 0
        records = (output / "records.jsonl").read_text(encoding="utf-8").split("\n")
        return json.loads((output / "results.json").read_text("utf-8")), [json.loads(each) for each in records if each]

    def comet(self) -> Path:
        """Scores of hypotheses.txt as comet-score writes them, the first translated line with an error span."""
        segments: list[dict[str, Any]] = []
        for number, record in enumerate(self.records):
            text = record["translation"].strip()
            segments.append({"src": record["source"].strip(), "mt": text, "ref": "", "COMET": 0.5 + number / 10})
            if text:
                error = {"text": text[:2], "confidence": 0.41, "severity": "critical", "start": 0, "end": 2}
                segments[-1]["errors"] = [error]
        path = self.folder / "comet.json"
        path.write_text(json.dumps({"first/hypotheses.txt": segments}, indent=4), encoding="utf-8")
        return path

    def mqm(self) -> Path:
        """People who find the first character of each line wrong, and a second rater who finds nothing in the last."""
        rows = [HEAD]
        for record in self.records:
            text = record["translation"]
            marked = re.sub(r"(\S)", r"<v>\1</v>", text, count=1)
            cells = ["me", "doc", "1", str(record["line"]), "rater1", record["source"], marked, "Accuracy", "Major"]
            rows.append("\t".join(cells))
        rows.append("\t".join([*cells[:4], "rater2", record["source"], text, "No-error", "no-error"]))
        return lines(self.folder / "mqm.tsv", rows)


@pytest.fixture
def evaluated(tiny_model: Path, tmp_path: Path) -> Evaluated:
    return Evaluated(tiny_model, tmp_path)


@pytest.mark.parametrize("of_model", [True, False])
def test_scores_and_labels_of_others_stand_in_table_results_and_page(
    evaluated: Evaluated, of_model: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    system = None if of_model else ["--records", evaluated.folder / "first" / "records.jsonl"]
    judges = ("--scores", f"comet={evaluated.comet()}", "--labels", evaluated.mqm())
    capsys.readouterr()
    results, records = evaluated.evaluate("second", *judges, system=system)
    told = capsys.readouterr().out
    assert "ECE inference, labels: people: " in told
    assert re.search(r"^comet: 0\.7000 \[0\.\d{4}, 0\.\d{4}\]; confidence against it: Spearman ", told, re.M)

    assert results["scores"]["comet"]["score"] == pytest.approx(0.7)
    assert results["scores"]["comet"]["low"] < 0.7 < results["scores"]["comet"]["high"]
    wrong = [record["tokens"] and record["correct"].count(False) for record in records]
    assert results["labels"]["by"] == "people" and results["labels"]["most_raters"] == 2
    assert results["labels"]["wrong"] == sum(filter(None, wrong))
    inference = results["calibration"]["inference"]
    assert inference["tokens"] == results["labels"]["tokens"] and "labelled-by-people" in inference["signature"]
    assert inference["accuracy"] == pytest.approx(1 - results["labels"]["wrong"] / results["labels"]["tokens"])
    for record in records:
        first = next(iter(re.finditer(r"\S", record["translation"])), None)
        places = characters_of_tokens(record["tokens"], record["translation"]) or []
        assert record.get("correct", []) == [
            None if not own else not (first and first.start() in own) for own in places
        ]

    page = (evaluated.folder / "second" / "report.html").read_text(encoding="utf-8")
    assert 'id="judges"' in page and "Labels: people." in page and "people found wrong" in page
    assert '"critical"' in page and (evaluated.folder / "second" / "figures" / "selective_judge_comet.svg").exists()
    plain = (evaluated.folder / "first" / "report.html").read_text(encoding="utf-8")
    assert 'id="judges"' not in plain and "do not align with the reference" in plain
    again = evaluated.evaluate("third", system=["--records", evaluated.folder / "second" / "records.jsonl"])
    assert "labels" not in again[0] and "judged" not in again[1][0]  # an evaluation's own additions are not input


def test_judges_of_other_translations_end_in_one_line_and_leave_the_folder_as_it_was(evaluated: Evaluated) -> None:
    comet, mqm = evaluated.comet(), evaluated.mqm()
    mqm.write_text(mqm.read_text(encoding="utf-8").replace("Buch", "Brot"), encoding="utf-8")
    comet.write_text(comet.read_text(encoding="utf-8").replace("Buch", "Brot"), encoding="utf-8")
    before = (evaluated.folder / "first" / "results.json").read_bytes()
    with pytest.raises(UserError, match=r"comet\.json: line 3 of first/hypotheses\.txt has another source; score DIR"):
        evaluated.evaluate("first", "--scores", f"comet={comet}")
    with pytest.raises(UserError, match=r"mqm\.tsv: has no row of line 3 "):
        evaluated.evaluate("first", "--labels", mqm)
    with pytest.raises(UserError, match="--labels: people judged one output, that of beam 5"):
        evaluated.evaluate("first", "--labels", mqm, "--beams", "1,5")
    with pytest.raises(UserError, match=r"nothing\.json: cannot be read"):
        evaluated.evaluate("first", "--scores", "comet=nothing.json")
    assert (evaluated.folder / "first" / "results.json").read_bytes() == before


def test_scores_without_a_name_are_refused(evaluated: Evaluated, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UserError)) as error:
        evaluated.evaluate("first", "--scores", "comet.json")
    assert "is not NAME=FILE" in capsys.readouterr().err + str(error.value)


def test_the_page_is_made_again_of_results_and_records_alone(evaluated: Evaluated) -> None:
    from mt.report.page import write_report

    evaluated.evaluate("second", "--scores", f"comet={evaluated.comet()}", "--labels", evaluated.mqm())
    folder = evaluated.folder / "alone"
    folder.mkdir()
    for name in ("results.json", "records.jsonl", "hypotheses.txt"):
        shutil.copy(evaluated.folder / "second" / name, folder)
    assert write_report(folder).read_bytes() == (evaluated.folder / "second" / "report.html").read_bytes()


@pytest.mark.parametrize("bad_below", [0.0, 0.5, 1.0])
def test_tags_are_written_as_they_are_read(evaluated: Evaluated, bad_below: float) -> None:
    output = evaluated.folder / "tags.tsv"
    options = ["--format", "wmt_qe", "--bad_below", bad_below, "--beam", 5, "--engine", "torch", "--output", output]
    given = [evaluated.model, "--input", evaluated.folder / "test.de", "--threads", 1, *options]
    assert translate([str(each) for each in given]) == 0
    rows = [line.split("\t") for line in output.read_text(encoding="utf-8").split("\n")[:-1]]
    for (text, confidence, tags), record in zip(rows, evaluated.records, strict=True):
        assert text == record["translation"] and float(confidence) == pytest.approx(record["confidence"], abs=1e-5)
        assert len(tags.split()) == len(text.split()) + 1
    tagged = lines(evaluated.folder / "tags", [row[2] for row in rows])
    records = evaluated.evaluate("second", "--labels", tagged)[1]
    for record in records:  # a word is as doubtful as its least sure token
        starts = [index for index, token in enumerate(record["tokens"]) if token.startswith("▁") or token == END]
        words = zip(starts, [*starts[1:], len(record["tokens"])])
        for first, end in words if all(len(token.strip("▁")) for token in record["tokens"]) else ():
            doubted = min(record["token_confidence"][first:end]) < bad_below
            assert record["correct"][first:end] == [not doubted] * (end - first)


def test_what_tags_have_no_place_for_is_refused(evaluated: Evaluated) -> None:
    for more in (["--nbest", "2"], ["--flag_below", "0.5"], ["--prefix", str(evaluated.folder / "test.en")]):
        with pytest.raises(UserError, match=f"--format wmt_qe: has no place for {more[0]}"):
            translate([str(evaluated.model), "--format", "wmt_qe", *more])
