"""translate.py --flag_below, on a model with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mt.cli.translate import main
from mt.errors import UserError

LINES = ["ein Hund läuft", "", "die Frau liest ein Buch", "der Mann singt"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.de"
    path.write_text("".join(line + "\n" for line in LINES))
    return path


def translate(model: Path, source: Path, output: Path, *options: str) -> list[str]:
    given = [str(model), "--input", str(source), "--output", str(output), "--threads", "1", *options]
    assert main(given) == 0
    return output.read_text().splitlines()


def test_marks_say_which_lines_and_leave_the_rest_as_it_is(tiny_model: Path, source: Path, tmp_path: Path) -> None:
    plain = translate(tiny_model, source, tmp_path / "plain")
    records = [json.loads(line) for line in translate(tiny_model, source, tmp_path / "r", "--format", "jsonl")]
    assert all("flagged" not in record for record in records)
    limit = sorted(record["confidence"] for record in records)[1]  # one line is below
    marked = translate(tiny_model, source, tmp_path / "marked", "--flag_below", str(limit))
    assert [line.partition("\t")[0] for line in marked] == plain
    flags = [record["confidence"] < limit for record in records]
    assert ["\tFLAG\t" in line for line in marked] == flags and sum(flags) == 1
    as_json = translate(tiny_model, source, tmp_path / "j", "--format", "jsonl", "--flag_below", str(limit))
    assert [json.loads(line)["flagged"] for line in as_json] == flags

    file = tmp_path / "flagged.tsv"
    split = translate(tiny_model, source, tmp_path / "s", "--flag_below", str(limit), "--flagged", str(file))
    assert split == plain
    number = flags.index(True)
    assert [line.split("\t") for line in file.read_text().splitlines()[1:]] == [
        [str(number + 1), f"{records[number]['confidence']:.4f}", LINES[number], plain[number]]
    ]


def test_lines_can_be_flagged_by_their_log_probability(tiny_model: Path, source: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in translate(tiny_model, source, tmp_path / "r", "--format", "jsonl")]
    for name, divided in (("log_prob", False), ("mean_log_prob", True)):
        figures = [sum(each["log_probs"]) / (max(1, len(each["log_probs"])) if divided else 1) for each in records]
        limit = str(sorted(figures)[1])  # as below, but one number, since a minus would be an option
        lines = translate(tiny_model, source, tmp_path / name, f"--flag_below={limit}", "--flag_by", name)
        assert ["\tFLAG\t" in line for line in lines] == [figure < float(limit) for figure in figures]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--flagged", "f"], "needs --flag_below"),
        (["--flag_below", "2"], "--flag_below is 2; confidence is 0 to 1"),
        (["--flag_below", "101", "--flag_by", "quality"], "quality is 0 to 100"),
        (["--flag_below", "50", "--flag_by", "quality"], "is not calibrated"),
        (["--flag_below", "0.5", "--nbest", "2"], "no place for marks"),
        (["--flag_below", "0.5", "--flagged", "nowhere/f"], "cannot be written"),
    ],
)
def test_mistakes_are_told_at_once(tiny_model: Path, source: Path, options: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        main([str(tiny_model), "--input", str(source), *options])
