"""Characters that no piece is known for, with a model without byte pieces; and lines that are too long, as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mt
from mt.cli.score import main as score
from mt.cli.translate import main as translate
from mt.config_file import read_config
from mt.decoding.translator import Translator
from mt.evaluation.recalibrate import calibrate
from mt.evaluation.test_set import TestSet

LINES = ["ein 🐕 Hund 犬", "🐕 犬", "", "der Mann singt", "🐕 犬"]
LONG = "ein Hund läuft eine Katze schläft " * 20


@pytest.fixture
def translator(tiny_model: Path) -> Translator:
    return mt.load(tiny_model, "cpu")


@pytest.mark.parametrize("options", [{}, {"nbest": 2, "beam": 2}, {"alignments": True}], ids=str)
def test_unknown_characters_are_counted_and_a_line_of_nothing_else_stays_as_it_is(
    translator: Translator, options: dict[str, Any]
) -> None:
    records = list(translator.translate(LINES, **{"beam": 1, **options}))
    ids = translator.loaded.tokenizer.encode_source(LINES)
    assert [each["unknown"] for each in records] == [line.count(translator.loaded.tokenizer.unknown_id) for line in ids]
    assert records[0]["unknown"] == 2 and records[2]["unknown"] == records[3]["unknown"] == 0
    for record in (records[1], records[4]):
        for output in (record, *record.get("nbest", ())):
            assert (output["translation"], output["tokens"], output["confidence"]) == ("🐕 犬", [], 0.0)
    assert records[0]["tokens"] and records[3]["tokens"]
    assert records[2]["translation"] == "" and records[2]["confidence"] == 1


def test_an_unknown_line_stays_one_line(translator: Translator) -> None:
    [record] = translator.translate(["🐕\u2028犬\x85"], prefixes=["A 犬"], beam=1)
    assert record["translation"].split() == ["A", "犬", "🐕", "犬"] and len(record["translation"].splitlines()) == 1


@pytest.mark.parametrize("options", [{"beam": 1}, {"beam": 3, "nbest": 3}, {"sample": True}], ids=str)
def test_every_output_begins_with_the_text_of_its_prefix(translator: Translator, options: dict[str, Any]) -> None:
    prefixes = ["A 🐕 dog", "🐕", "a  dog", " the man ", "ﬁ", "犬\u2028a", "the wo"]
    lines, options = [LINES[0]] * 6 + [LONG], options | {"max_length": 30, "max_output": 12}
    for record, prefix in zip(translator.translate(lines, prefixes=prefixes, **options), prefixes, strict=True):
        for output in record.get("nbest", [record]):
            assert output["translation"].startswith(prefix.strip().replace("\u2028", " "))
            assert len(output["tokens"]) > 1


def test_a_known_prefix_changes_nothing_but_where_it_says_so(translator: Translator) -> None:
    """Held against what the tokens spell."""
    tokenizer = translator.loaded.tokenizer
    ids = {piece: number for number, piece in enumerate(tokenizer.vocabularies[1])}
    for record in translator.translate(["ein Hund läuft", LINES[3]], prefixes=["the man", "a dog"], beam=2):
        spelled = tokenizer.decode_target([ids[token] for token in record["tokens"]])
        assert record["translation"] == spelled


def test_the_commands_tell_of_unknown_and_of_long_lines_once(
    tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, target, output = (tmp_path / name for name in ("in.de", "in.en", "out.en"))
    source.write_text("".join(f"{line}\n" for line in (*LINES, LONG)), encoding="utf-8")
    target.write_text("a dog\n" * len(LINES) + "a 🐕\n", encoding="utf-8")
    quick = ["--threads", "1", "--beam", "1", "--max_output", "5"]
    translate([str(tiny_model), "--input", str(source), "--output", str(output), *quick])
    told = capfd.readouterr().err.splitlines()
    assert [each for each in told if "never seen" in each] == [
        "warning: lines with characters that the model has never seen: 3, counted from 1 these: "
        "1 (\\U0001f415, \\u72ac), 2 (\\U0001f415, \\u72ac), 5 (\\U0001f415, \\u72ac)"
    ]
    assert [each.endswith("(decode.max_length): 1, counted from 1 these: 6") for each in told].count(True) == 1
    assert len(output.read_text(encoding="utf-8").split("\n")) == len(LINES) + 2

    score([str(tiny_model), "--source", str(source), "--target", str(target), "--threads", "1"])
    written, told = capfd.readouterr()
    assert [json.loads(line)["unknown"] for line in written.splitlines()] == [2, 2, 0, 0, 2, 0]
    assert [json.loads(line)["target_unknown"] for line in written.splitlines()] == [0, 0, 0, 0, 0, 1]
    assert (
        "scored whole, which translation splits, because" in told
        and "(decode.max_length): 1, counted from 1 these: 6" in told
    )
    assert "never seen: 4, counted from 1 these: 1 (" in told


def test_calibration_leaves_out_and_counts_what_would_be_translated_in_parts(
    translator: Translator, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = ["ein Hund läuft", "der Mann singt"] * 10 + [LONG] * 7
    text = TestSet(sources, [["a dog runs"] * len(sources)], {})
    saved = calibrate(translator.loaded, text, folds=2, beam=1, max_output=4)
    assert saved["lines_overlong"] == 7
    assert "lines left out" in (told := capsys.readouterr().err) and "7, counted from 1 these: 21, " in told


def test_the_model_of_these_tests_has_no_byte_pieces(tiny_config: Path) -> None:
    assert not read_config(tiny_config).tokenizer.byte_fallback
