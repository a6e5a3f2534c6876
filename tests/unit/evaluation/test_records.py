"""Records of other systems: what is read, and which mistake is named how."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mt.errors import UserError
from mt.evaluation.records import read_records


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
    assert read_records(written(tmp_path, given))[0].keys() == {*TOKENS, "line"}


def test_alternatives_are_kept(tmp_path: Path) -> None:
    given = {**TOKENS, "alternatives": [[["a", -0.1], ["c", -3]], []]}
    assert read_records(written(tmp_path, given))[0]["alternatives"] == given["alternatives"]


def test_line_separator_characters_do_not_end_a_record(tmp_path: Path) -> None:
    path = written(tmp_path, '{"translation": "a\u2028b"}')
    assert read_records(path)[0]["translation"] == "a\u2028b"


TOKENS = {"translation": "a b", "tokens": ["a", "b"]}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"source": "x"}, "translation is missing"),
        ({"translation": 3}, "translation is 3; it must be a text"),
        ({"translation": "a", "source": []}, "source is []"),
        ({"translation": "a", "line": 7}, "line is 7, expected 1"),
        ({"translation": "a", "tokens": "a"}, "tokens must be a list of texts"),
        ({"translation": "a", "tokens": [1]}, "tokens must be a list of texts"),
        ({"translation": "a", "log_probs": [-1]}, "log_probs without tokens"),
        ({**TOKENS, "log_probs": [-1]}, "log_probs has 1 entries for 2 tokens"),
        ({**TOKENS, "log_probs": [-1, 0.5]}, "log_probs holds 0.5"),
        ({**TOKENS, "log_probs": [-1, "x"]}, "log_probs holds 'x'"),
        ({**TOKENS, "log_probs": 1}, "log_probs must be a list of numbers"),
        ('{"translation": "a b", "tokens": ["a", "b"], "log_probs": [-1, NaN]}', "log_probs holds nan"),
        ({**TOKENS, "token_confidence": [0.5, 1.5]}, "token_confidence holds 1.5"),
        ({**TOKENS, "token_confidence": [0.5, True]}, "token_confidence holds True"),
        ({"translation": "a", "confidence": 2}, "confidence is 2"),
        ({"translation": "a", "score": "x"}, "score is 'x'"),
        ('{"translation": "a", "score": Infinity}', "score is inf"),
        ({"translation": "a", "nbest": 3}, "nbest is 3; it must be a list"),
        ({"translation": "a", "nbest": [{"log_probs": ["x"]}]}, "nbest holds log_probs ['x']"),
        ({**TOKENS, "alternatives": 3}, "alternatives must be a list of lists"),
        ({**TOKENS, "alternatives": [[]]}, "alternatives has 1 entries for 2 tokens"),
        ({"translation": "a", "alternatives": [[]]}, "alternatives without tokens"),
        ({**TOKENS, "alternatives": [[], "b"]}, "alternatives holds 'b'"),
        ({**TOKENS, "alternatives": [[], [["b"]]]}, "alternatives holds [['b']]"),
        ({**TOKENS, "alternatives": [[["a", "x"]], []]}, "alternatives holds [['a', 'x']]"),
        ({**TOKENS, "alternatives": [[["a", 0.5]], []]}, "alternatives holds [['a', 0.5]]"),
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
