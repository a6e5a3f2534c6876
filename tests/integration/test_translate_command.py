"""translate.py and tools/score.py on a model with random weights."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mt.cli.score import main as score
from mt.cli.translate import main as translate
from mt.errors import UserError

ROOT = Path(__file__).parents[2]
WORDS = ["ein", "Hund", "läuft", "eine", "Katze", "schläft", "der", "Mann", "singt", "Lied", "Frau", "liest", "Buch"]
STRANGE = [
    b"",
    b"   ",
    b"\t \t",
    b"Hund " * 5000,
    "🙂 Hund 👩‍👩‍👧".encode(),
    "ein\u2028Hund\u2029".encode(),
    b"Hund\x00Katze",
    b"\x00",
    b"\r",
    b"Hund\r",
    "\ufeff\ufffe Hund \ufffd".encode(),
    "\u200b".encode(),
    "x\x85y\x0bz\x0c\x1c".encode(),
]

PLACED = STRANGE * 3


def some_lines(count: int) -> list[bytes]:
    generator = random.Random(1)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 9))).encode() for _ in range(count)]


def translate_file(model: Path, source: Path, *options: object) -> bytes:
    target = source.with_suffix(".out")
    assert (
        translate([str(model), "--input", str(source), "--output", str(target), "--threads", "1", *map(str, options)])
        == 0
    )
    assert not target.with_name(target.name + ".partial").exists()
    return target.read_bytes()


def run(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, env=environment, timeout=120, **options)


def test_lines_out_are_lines_in(tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = some_lines(1000)
    for place, strange in enumerate(PLACED):
        lines[place * 20] = strange
    source = tmp_path / "source"
    source.write_bytes(b"\n".join(lines))  # the last line has no line feed
    capfd.readouterr()
    output = translate_file(tiny_model, source, "--beam", 1)
    assert output.endswith(b"\n") and output.count(b"\n") == len(lines)
    engine, warning, unknown, wrote = capfd.readouterr().err.splitlines()
    assert engine.startswith("engine: ") and wrote.startswith("wrote ")
    assert "never seen" in unknown and "counted from 1 these: 81 (\\U0001f642, " in unknown
    assert "(decode.max_length): 3, counted from 1 these: 61, 321, 581" in warning
    translated = output.decode().split("\n")
    for place, strange in enumerate(PLACED):
        if not strange.decode().replace("\u200b", "").strip():
            assert translated[place * 20] == ""
    ordinary = [line for line in some_lines(1000) if lines.count(line) == 1][:40]
    alone = tmp_path / "alone"
    alone.write_bytes(b"\n".join(ordinary) + b"\n")
    expected = [translated[lines.index(line)] for line in ordinary]
    assert translate_file(tiny_model, alone, "--beam", 1).decode().split("\n")[:-1] == expected


def test_first_lines_through_a_pipe_equal_the_whole_file(tiny_model: Path, tmp_path: Path) -> None:
    lines = [*some_lines(20), b"", *some_lines(9)]
    source = tmp_path / "source.gz"
    source.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    whole = translate_file(tiny_model, source).split(b"\n")
    done = run("translate.py", tiny_model, "--threads", 1, "--engine", "torch", input=b"\n".join(lines[:3]) + b"\n")
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.split(b"\n") == [*whole[:3], b""]


def test_on_standard_input_bad_bytes_are_replaced_and_a_byte_order_mark_goes(tiny_model: Path) -> None:
    text = b"\xef\xbb\xbfein Hund\n\xff\xfe Hund \xc3\n"
    done = run("translate.py", tiny_model, "--threads", 1, "--format", "jsonl", input=text)
    sources = [json.loads(line)["source"] for line in done.stdout.splitlines()]
    assert done.returncode == 0 and sources == ["ein Hund", "\ufffd\ufffd Hund \ufffd"]


def test_a_slow_pipe_is_answered_line_by_line(tiny_model: Path) -> None:
    command = [sys.executable, str(ROOT / "translate.py"), str(tiny_model), "--threads", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in (b"Hund\n", b"\n", b"Katze\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_json_lines_hold_the_whole_record(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"ein Hund\n\nx\xe2\x80\xa8\n")
    output = translate_file(tiny_model, source, "--format", "jsonl", "--beam", 3, "--nbest", 3).decode()
    assert len(output.splitlines()) == 3  # U+2028 does not stand raw in it
    records = [json.loads(line) for line in output.split("\n")[:-1]]
    assert [record["source"] for record in records] == ["ein Hund", "", "x\u2028"]
    fields = ["line", "source", "translation", "score", "confidence", "tokens", "log_probs", "token_confidence"]
    assert list(records[0]) == [*fields, "nbest", "unknown", "overlong"]
    assert list(records[0]["nbest"][0]) == fields[2:]
    assert records[1]["translation"] == "" and records[1]["score"] == 0 and records[1]["confidence"] == 1
    assert "nbest" not in json.loads(translate_file(tiny_model, source, "--format", "jsonl").split(b"\n")[0])


def test_nbest_text_names_the_line(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("ein Hund\n\nKatze\n")
    lines = translate_file(tiny_model, source, "--beam", 3, "--nbest", 2).decode().split("\n")[:-1]
    parts = [line.split(" ||| ") for line in lines]
    assert {int(number) for number, _, _ in parts} == {0, 1, 2}
    assert ["1", "", "0.0"] in parts
    scores = [float(score) for number, _, score in parts if number == "0"]
    assert scores == sorted(scores, reverse=True)


def test_several_inputs_are_translated_one_after_the_other(tiny_model: Path, tmp_path: Path) -> None:
    first, second, both = tmp_path / "first", tmp_path / "second", tmp_path / "both"
    first.write_text("ein Hund")
    second.write_text("\neine Katze\n")
    expected = translate_file(tiny_model, first) + translate_file(tiny_model, second)
    assert (
        translate([str(tiny_model), "--input", str(first), str(second), "--output", str(both), "--threads", "1"]) == 0
    )
    assert both.read_bytes() == expected


def test_score_prints_what_the_model_thinks_of_each_pair(
    tiny_model: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("ein Hund\n\nHund\u2028Katze\n", encoding="utf-8")
    target.write_text("a dog\nthe cat\n\n")
    capfdbinary.readouterr()
    assert score([str(tiny_model), "--source", str(source), "--target", str(target), "--threads", "1"]) == 0
    records = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [record["line"] for record in records] == [0, 1, 2]
    assert [record["target"] for record in records] == ["a dog", "the cat", ""]
    for record in records:
        assert record["tokens"][-1] == "</s>" and len(record["tokens"]) == len(record["log_probs"])
        assert record["score"] == pytest.approx(sum(record["log_probs"]), abs=1e-5)
    # Of the model's own outputs the end alone is one that the tokeniser splits in the same way for sure.
    options = ("--format", "jsonl", "--length_penalty", "none", "--beam", 40, "--nbest", 40)
    third = json.loads(translate_file(tiny_model, source, *options).split(b"\n")[2])
    empty = next(output for output in third["nbest"] if output["tokens"] == ["</s>"])
    assert empty["score"] == pytest.approx(records[2]["score"], abs=1e-4)


def test_a_failure_leaves_no_half_written_file(tiny_model: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source.gz", tmp_path / "target"
    target.write_text("before\n")
    source.write_bytes(gzip.compress(os.urandom(4000))[:3000])
    with pytest.raises(UserError, match="damaged gzip"):
        translate([str(tiny_model), "--input", str(source), "--output", str(target)])
    assert target.read_text() == "before\n"
    assert sorted(path.name for path in tmp_path.glob("target*")) == ["target"]


def test_user_errors_are_one_line_with_exit_code_2(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("Hund\n")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_model.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:1000])
    for arguments, words in [
        (("translate.py", tiny_model, "--input", tmp_path / "none"), "none: No such file or directory; check the name"),
        (("translate.py", tmp_path / "nowhere", "--input", source), "nowhere: no such folder"),
        (("translate.py", broken, "--input", source, "--output", tmp_path / "out"), "was changed or damaged"),
        (("translate.py", tiny_model, "--input", source, "--output", tmp_path / "no" / "out"), "cannot be written"),
        (("translate.py", tiny_model, "--input", source, "--output", tmp_path), "is a folder"),
        (("translate.py", tiny_model, "--beam", "0"), "--beam"),
        (("translate.py", tiny_model, "--input", source, "--beam", "2", "--nbest", "3"), "at most beam, 2"),
        (("tools/score.py", tiny_model, "--source", source), "--target"),
        (("tools/score.py", tiny_model, "--source", source, "--target", os.devnull), "has 0; they must have equally"),
    ]:
        done = run(*arguments, stdin=subprocess.DEVNULL)
        errors = done.stderr.decode().splitlines()
        assert done.returncode == 2 and len(errors) == 1 and words in errors[0], (arguments, errors)
        assert done.stdout == b""
    assert not list(tmp_path.glob("out*"))


def test_output_place_is_checked_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        translate(["no-model", "--input", os.devnull, "--output", str(tmp_path / "no" / "out")])


def test_help_answers_without_torch() -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "translate.py"), "--help"]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"|||" in done.stdout and b"example" in done.stdout
    assert b"argparse" in done.stderr and b"torch" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"Hund\n" * 3000)
    options = f"--threads 1 --beam 1 --engine torch --input {source}"
    command = f"{sys.executable} {ROOT / 'translate.py'} {tiny_model} {options} | head -2"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=120)
    assert len(done.stdout.splitlines()) == 2 and done.stderr == b""
