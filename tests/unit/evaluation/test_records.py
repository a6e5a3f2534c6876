"""Records of other systems: what is read, and which mistake is named how."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mt.errors import UserError
from mt.evaluation.records import read_measured_records, read_records


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "records.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8", newline="\n")
    return path


def test_a_translation_is_all_that_a_record_needs(tmp_path: Path) -> None:
    path = written(tmp_path, {"translation": "a"}, {"translation": "", "tokens": None})
    assert read_records(path) == [{"line": 0, "translation": "a"}, {"line": 1, "translation": ""}]


def test_confidences_come_from_log_probabilities_and_their_mean_is_the_sentences(tmp_path: Path) -> None:
    path = written(tmp_path, {"translation": "a", "tokens": ["a", "</s>"], "log_probs": [math.log(0.5), 0]})
    record = read_records(path)[0]
    assert record["token_confidence"] == pytest.approx([0.5, 1.0])
    assert record["confidence"] == pytest.approx(0.75)


def test_given_confidences_are_kept(tmp_path: Path) -> None:
    given = {"translation": "a", "tokens": ["a"], "log_probs": [-1], "token_confidence": [0.9], "confidence": 0.8}
    record = read_records(written(tmp_path, given))[0]
    assert record["token_confidence"] == [0.9] and record["confidence"] == 0.8


def test_labels_of_an_earlier_evaluation_are_dropped(tmp_path: Path) -> None:
    given = {**TOKENS, "correct": [True], "chrf": 99, "raw_confidence": "x", "source_length": []}
    given |= {"teacher_forced": {"tokens": 3}, "recalibrated_teacher_forced": 1}
    assert read_records(written(tmp_path, given))[0].keys() == {*TOKENS, "line"}


SUMS: dict[str, Any] = {"tokens": 3, "nll": 1.5, "gaps": [0.0] * 15}


@pytest.mark.parametrize("name", ["teacher_forced", "recalibrated_teacher_forced"])
def test_sums_of_the_reference_as_prefix_are_checked(tmp_path: Path, name: str) -> None:
    record = {"line": 0, "translation": "a", name: SUMS}
    assert read_measured_records(written(tmp_path, record), "again") == [record]
    for wrong in ({"tokens": 0}, {"nll": "x"}, {"gaps": [0.0] * 14}, {"gaps": [None] * 15}, {"gaps": [1e301] * 15}):
        with pytest.raises(UserError, match=rf"line 1: .*\$\.{name}\.{next(iter(wrong))}.*again"):
            read_measured_records(written(tmp_path, record | {name: SUMS | wrong}), "again")


@pytest.mark.parametrize("others", [["c", -3], {"token": "c", "log_prob": -3}])
def test_alternatives_are_kept_in_one_shape(tmp_path: Path, others: Any) -> None:
    path = written(tmp_path, {**TOKENS, "alternatives": [[others], []]})
    assert read_records(path)[0]["alternatives"] == [[{"token": "c", "log_prob": -3}], []]


def test_what_a_record_says_besides_is_kept(tmp_path: Path) -> None:
    path = written(tmp_path, {"translation": "a", "flagged": True, "mine": {"x": [1, None]}})
    assert read_records(path)[0] == {"translation": "a", "flagged": True, "mine": {"x": [1, None]}, "line": 0}


def test_rounding_above_one_is_no_mistake(tmp_path: Path) -> None:
    given = {**TOKENS, "log_probs": [0.00001, 0], "token_confidence": [1.0000005, 1]}
    assert read_records(written(tmp_path, given))[0]["token_confidence"] == [1.0000005, 1]


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    path = written(tmp_path, r'{"translation": "a \ud800 \ud83d\ude00 \\ud800"}')
    assert read_records(path)[0]["translation"] == "a \ufffd \U0001f600 \\ud800"


def test_line_separator_characters_do_not_end_a_record(tmp_path: Path) -> None:
    path = written(tmp_path, '{"translation": "a\u2028b"}')
    assert read_records(path)[0]["translation"] == "a\u2028b"


TOKENS = {"translation": "a b", "tokens": ["a", "b"]}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{broken", "JSON is malformed"),
        ("", "such as"),
        ("[1]", "Expected `object`"),
        ({"source": "x"}, "missing required field `translation`"),
        ({"translation": None}, "$.translation"),
        ({"translation": 3}, "$.translation"),
        ({"translation": "a", "source": []}, "$.source"),
        ({"translation": "a", "line": 7}, "line is 7, expected 1"),
        ({"translation": "a", "line": -1}, "line is -1, expected 1"),
        ({"translation": "a", "line": 1.0}, "$.line"),
        ({"translation": "a", "tokens": "a"}, "$.tokens"),
        ({"translation": "a", "tokens": [1]}, "$.tokens[0]"),
        ({"translation": "a", "reference_tokens": [None]}, "$.reference_tokens[0]"),
        ({"translation": "a", "log_probs": [-1]}, "log_probs has 1 entries for 0 tokens"),
        ({**TOKENS, "log_probs": [-1]}, "log_probs has 1 entries for 2 tokens"),
        ({**TOKENS, "log_probs": [-1, 0.5]}, "$.log_probs[1]"),
        ({**TOKENS, "log_probs": [-1, "x"]}, "$.log_probs[1]"),
        ({**TOKENS, "log_probs": 1}, "$.log_probs"),
        ('{"translation": "a b", "tokens": ["a", "b"], "log_probs": [-1, NaN]}', "invalid character (byte 63)"),
        ('{"translation": "a b", "tokens": ["a", "b"], "log_probs": [-1, -Infinity]}', "invalid character"),
        (f'{{"translation": "a", "tokens": ["a"], "log_probs": [-{"9" * 400}]}}', "$.log_probs[0]"),
        (f'{{"translation": "a", "tokens": ["a"], "log_probs": [-{"9" * 5000}]}}', "$.log_probs[0]"),
        ('{"translation": "a", "tokens": ["a"], "log_probs": [-1e400]}', "$.log_probs[0]"),
        ({**TOKENS, "log_probs": [-1, -1e305]}, "$.log_probs[1]"),
        ({**TOKENS, "token_confidence": [0.5, 1.5]}, "$.token_confidence[1]"),
        ({**TOKENS, "token_confidence": [0.5, -0.1]}, "$.token_confidence[1]"),
        ({**TOKENS, "token_confidence": [0.5, True]}, "$.token_confidence[1]"),
        ({**TOKENS, "token_confidence": [0.5]}, "token_confidence has 1 entries for 2 tokens"),
        ({"translation": "a", "confidence": 2}, "$.confidence"),
        ({"translation": "a", "score": "x"}, "$.score"),
        ({"translation": "a", "score": 1e301}, "$.score"),
        ('{"translation": "a", "score": Infinity}', "invalid character"),
        ({"translation": "a", "nbest": 3}, "$.nbest"),
        ({"translation": "a", "nbest": [3]}, "$.nbest[0]"),
        ({"translation": "a", "nbest": [{"log_probs": ["x"]}]}, "$.nbest[0].log_probs[0]"),
        ({"translation": "a", "nbest": [{**TOKENS, "log_probs": [-1]}]}, "one each - at `$.nbest[0]`"),
        ({**TOKENS, "alternatives": 3}, "$.alternatives"),
        ({**TOKENS, "alternatives": [[]]}, "alternatives has 1 entries for 2 tokens"),
        ({"translation": "a", "alternatives": [[]]}, "alternatives has 1 entries for 0 tokens"),
        ({**TOKENS, "alternatives": [[], "b"]}, "$.alternatives[1]"),
        ({**TOKENS, "alternatives": [[], [["b"]]]}, "$.alternatives[1][0]"),
        ({**TOKENS, "alternatives": [[["a", "x"]], []]}, "$.alternatives[0][0][1]"),
        ({**TOKENS, "alternatives": [[["a", 0.5]], []]}, "$.alternatives[0][0][1]"),
        ({**TOKENS, "alternatives": [[{"token": "a", "log_prob": 0.5}], []]}, "$.alternatives[0][0].log_prob"),
        ({**TOKENS, "alternatives": [[{"token": "a"}], []]}, "`log_prob`"),
        ("[" * 2000 + "]" * 2000, "Expected `object`"),
        (f'{{"translation": "a", "x": {"[" * 2000 + "]" * 2000}}}', "recursion"),
        (f'{{"translation": "a\\ud800", "x": {"[" * 2000 + "]" * 2000}}}', "such as"),
        ('{"translation": "\\ud800", "score": NaN}', "such as"),
    ],
)
def test_a_bad_line_is_named_with_its_field(tmp_path: Path, bad: Any, words: str) -> None:
    path = written(tmp_path, {"translation": "good"}, bad)
    with pytest.raises(UserError) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}, line 2: ")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_empty_and_undecodable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_records(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match="is empty"):
        read_records(written(tmp_path))
    (tmp_path / "records.jsonl").write_bytes(b'{"translation": "a"}\n{"translation": "\xff"}\n')
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        read_records(tmp_path / "records.jsonl")
