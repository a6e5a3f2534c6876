"""tools/evaluate.py on a model with random weights and on records of another system."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.json
import pyarrow.parquet
import pytest

import mt
from mt.cli.evaluate import main
from mt.errors import UserError

SOURCES = ["ein Hund läuft 1", "", "die Frau liest ein Buch 2", "der Mann singt ein Lied", "\u2028 emoji 😀"]
REFERENCES = ["a dog runs 1", "", "the woman reads a book 2", "the man sings a song", "</script> & <b>"]


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8", newline="\n")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def test_set(tmp_path: Path) -> tuple[Path, Path]:
    return lines(tmp_path / "test.de", SOURCES), lines(tmp_path / "test.en", REFERENCES)


def test_a_model_is_evaluated_with_each_beam(
    tiny_model: Path, test_set: tuple[Path, Path], tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    done: subprocess.CompletedProcess[str] = run_command(
        "tools/evaluate.py",
        tiny_model,
        "--source",
        test_set[0],
        "--reference",
        test_set[1],
        "--beams",
        "1,5",
        "--bootstrap",
        50,
        "--output",
        tmp_path / "out",
        "--threads",
        1,
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    rows = ["beam", "BLEU", "chrF", "TER", "length", "ECE", "ECE", "ECE", "ECE", "confidence", "report:"]
    assert [line.split()[0] for line in table] == rows
    assert table[0].split() == ["beam", "1", "5"] and max(map(len, table[:7])) <= 80
    assert table[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "results.json",
        "records.jsonl",
        "hypotheses.txt",
        "report.html",
        "figures",
    }

    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert {"bleu", "chrf", "ter", "length_ratio", "empties", "calibration", "beams", "model", "data"} <= results.keys()
    assert set(results["beams"]) == {"1", "5"}
    for block in (results, *results["beams"].values()):
        for key in ("bleu", "chrf", "ter"):
            assert set(block[key]) == {"score", "low", "high", "signature"}
            assert block[key]["low"] <= block[key]["high"]
        calibration = block["calibration"]["inference"]
        assert 0 <= calibration["ece"] <= calibration["mce"] <= 1
    assert results["bleu"] == results["beams"]["5"]["bleu"]
    forced = results["calibration"]["teacher_forced"]
    assert {"tokens", "ece", "mce", "nll", "brier", "accuracy", "confidence", "bins", "signature"} <= forced.keys()
    assert len(forced["bins"]) == 15 and sum(each["count"] for each in forced["bins"]) == forced["tokens"]
    assert results["model"]["name"] == "model" and len(results["model"]["fingerprint"]) == 32
    assert results["data"]["lines"] == 5 and results["data"]["references"] == ["test.en"]
    assert str(tmp_path) not in json.dumps(results)
    made = results["evaluation"]
    arguments = "model --source test.de --reference test.en --beams 1,5 --bootstrap 50 --output out --threads 1"
    assert made["command"] == f"python tools/evaluate.py {arguments}"
    assert abs(datetime.now(timezone.utc) - datetime.fromisoformat(made["date"])) < timedelta(minutes=10)
    assert made["lines_per_second"] > 0 and (made["device"], made["processes"]) == ("cpu", 1)
    assert made["versions"]["mt"] == mt.__version__ and made["versions"]["torch"] == version("torch")
    assert results["config"]["decode"]["beam"] == 5 and results["config"]["run_dir"] == ""

    records = read_lines(tmp_path / "out" / "records.jsonl")
    assert [record["line"] for record in records] == [0, 1, 2, 3, 4]
    assert [record["source"] for record in records] == SOURCES
    assert [record["reference"] for record in records] == REFERENCES
    assert all(len(record.get("correct", [])) == len(record["tokens"]) for record in records)
    hypotheses = (tmp_path / "out" / "hypotheses.txt").read_text(encoding="utf-8").split("\n")
    assert hypotheses == [*(record["translation"] for record in records), ""]
    assert hypotheses[1] == ""
    assert results["decode"]["lines_overlong"] == 0
    assert results["decode"]["lines_with_unknown"] == sum(record["unknown"] > 0 for record in records)

    table = pyarrow.json.read_json(tmp_path / "out" / "records.jsonl")
    assert table.column("alternatives").to_pylist() == [record.get("alternatives") for record in records]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "records.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "records.parquet").column("alternatives") == table["alternatives"]


def test_the_default_beam_is_always_evaluated(tiny_model: Path, test_set: tuple[Path, Path], tmp_path: Path) -> None:
    assert (
        main(
            [
                str(tiny_model),
                "--source",
                str(test_set[0]),
                "--reference",
                str(test_set[1]),
                "--beams",
                "2",
                "--bootstrap",
                "0",
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["beams"]) == ["2", "5"] and results["beam"] == 5
    assert results["bleu"]["low"] is None


def test_another_systems_records_with_two_references(test_set: tuple[Path, Path], tmp_path: Path) -> None:
    tokens = ["▁a", "▁cat", "▁runs", "▁1", "</s>"]
    made = [{"translation": text} for text in REFERENCES]
    made[0] = {"translation": "a cat runs 1", "tokens": tokens, "token_confidence": [0.9, 0.8, 0.7, 0.6, 0.95]}
    path = lines(tmp_path / "other.jsonl", [json.dumps(record) for record in made])
    second = tmp_path / "second.en.gz"
    with gzip.open(second, "wt", encoding="utf-8", newline="\n") as file:
        file.write("".join(text + "\n" for text in ["a cat runs 1", *REFERENCES[1:]]))
    assert (
        main(
            [
                "--records",
                str(path),
                "--source",
                str(test_set[0]),
                "--reference",
                str(test_set[1]),
                str(second),
                "--bootstrap",
                "20",
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["bleu"]["score"] == pytest.approx(100)  # thanks to the second reference
    assert results["calibration"]["teacher_forced"] is None
    inference = results["calibration"]["inference"]
    assert inference["tokens"] == 5
    assert inference["accuracy"] == pytest.approx(4 / 5)  # against the first reference
    assert "labelled-by-word" in inference["signature"]
    records = read_lines(tmp_path / "out" / "records.jsonl")
    assert records[0]["correct"] == [True, False, True, True, True]
    assert records[0]["references"] == ["a dog runs 1", "a cat runs 1"]
    assert records[3]["source"] == SOURCES[3]
    assert "</script> & <b>" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_records_without_probabilities_give_quality_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = lines(tmp_path / "other.jsonl", [json.dumps({"translation": text}) for text in REFERENCES])
    reference = lines(tmp_path / "test.en", REFERENCES)
    out = tmp_path / "out"
    assert main(["--records", str(path), "--reference", str(reference), "--bootstrap", "0", "--output", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["calibration"] == {"teacher_forced": None, "inference": None}
    assert results["ter"]["score"] == 0
    assert "report:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--source", "test.de", "--reference", "short.en"], ["test.de has 5 lines", "short.en has 4"]),
        (["--source", "test.de", "--reference", "empty"], ["empty: is empty"]),
        (["--source", "nowhere", "--reference", "test.en"], ["nowhere"]),
        (["--reference", "test.en"], ["--source is missing"]),
        (["--source", "test.de", "--reference", "test.en", "--beams", "1,0"], ["--beams: '0' is not a whole number"]),
        (["--source", "test.de", "--reference", "test.en", "--threads", "0"], ["--threads", "1 to 1,024"]),
        (["--source", "test.de", "--reference", "test.en", "--beam", "1"], ["--beams"]),
        (["--source", "test.de", "--reference", "test.en", "--records", "r.jsonl"], ["either MODEL", "--records"]),
    ],
)
def test_mistakes_are_one_line(
    tiny_model: Path,
    test_set: tuple[Path, Path],
    tmp_path: Path,
    run_command: Callable[..., Any],
    arguments: list[str],
    words: list[str],
) -> None:
    lines(tmp_path / "short.en", REFERENCES[:4])
    lines(tmp_path / "empty", [])
    done = run_command("tools/evaluate.py", tiny_model, *arguments, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_bad_record_names_line_and_field(tmp_path: Path) -> None:
    reference = lines(tmp_path / "test.en", ["a", "b"])
    path = lines(tmp_path / "r.jsonl", ['{"translation": "a"}', '{"translation": 1}'])
    with pytest.raises(UserError, match=r"r\.jsonl, line 2: .*translation"):
        main(["--records", str(path), "--reference", str(reference), "--output", str(tmp_path / "out")])
    lines(path, ['{"translation": "a"}'])
    with pytest.raises(UserError, match=r"r\.jsonl has 1 lines and test\.en has 2"):
        main(["--records", str(path), "--reference", str(reference), "--output", str(tmp_path / "out")])
