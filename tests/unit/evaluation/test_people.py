"""Labels of people: the forms that they come in, and what calibration with them says where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mt.errors import UserError
from mt.evaluation.people import HumanLabels
from mt.evaluation.tokens import inference

HEAD = "system\tdoc\tdoc_id\tseg_id\trater\tsource\ttarget\tcategory\tseverity"


def records() -> list[dict[str, Any]]:
    """Two lines, "a big dog" and "cats"."""
    return [
        {"line": 0, "source": "x", "translation": "a big dog", "tokens": ["▁a", "▁b", "ig", "▁dog", "</s>"]},
        {"line": 1, "source": "y", "translation": "cats", "tokens": ["▁cat", "s", "</s>"]},
    ]


def labelled(path: Path, text: str, given: list[dict[str, Any]] | None = None) -> tuple[list[Any], dict[str, Any]]:
    path.write_text(text, encoding="utf-8")
    given = records() if given is None else given
    block = HumanLabels(path, len(given)).apply(given)
    return [each["correct"] for each in given], block


@pytest.mark.parametrize(
    ("text", "expected", "form"),
    [
        ("OK BAD OK\nBAD\n", [[1, 0, 0, 1, None], [0, 0, None]], "tags of words"),
        ("OK BAD OK OK\nOK BAD\n", [[1, 0, 0, 1, 1], [1, 1, 0]], "tags of words and the end"),
        # a missing word in front of "a", of "dog", and behind "cats"
        ("BAD OK OK OK BAD OK OK\nOK OK BAD\n", [[0, 1, 1, 0, 1], [1, 1, 0]], "tags of words and gaps"),
    ],
)
def test_tags_come_in_three_forms(tmp_path: Path, text: str, expected: list[Any], form: str) -> None:
    correct, block = labelled(tmp_path / "tags", text)
    assert correct == expected
    assert block["form"] == form and block["by"] == "people" and block["file"] == "tags"
    known = [each for line in expected for each in line if each is not None]
    assert block["tokens"] == len(known) and block["wrong"] == known.count(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("OK OK\nOK\n", "tags: line 1 has 2 tags for a translation of 3 words; wanted are, in all lines, n"),
        ("OK OK OK OK\nOK\n", "tags: line 1 has 4 tags for a translation of 3 words"),  # a file has one form
        ("OK OK OK\n", "tags has 1 lines and the test set has 2"),
        ("good\nbad\n", "tags: no labels that are known"),
        ("", "tags: no labels that are known"),
    ],
)
def test_tags_that_do_not_fit_are_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        labelled(tmp_path / "tags", text)
    assert said in str(error.value) and "\n" not in str(error.value)


def row(seg: int, rater: str, source: str, target: str, severity: str, system: str = "me") -> str:
    return f"{system}\tdoc\t1\t{seg}\t{rater}\t{source}\t{target}\tAccuracy\t{severity}"


def test_mqm_marks_wrong_what_it_covers_and_neutral_is_no_error(tmp_path: Path) -> None:
    rows = [
        HEAD,
        row(1, "r", "x", "a b<v>ig d</v>og", "Major"),
        row(1, "r", "x", "<v>a</v> big dog", "Neutral"),
        row(2, "r", "<v>y</v>", "cats", "minor"),  # marked in the source: nothing of the translation is wrong
        row(9, "r", "other", "text <v>of</v> others", "minor"),
    ]
    correct, block = labelled(tmp_path / "mqm", "\n".join(rows) + "\n")
    assert correct == [[True, True, False, False, None], [True, True, None]]
    assert (block["form"], block["wrong"], block["most_raters"]) == ("MQM", 2, 1)


@pytest.mark.parametrize(("raters", "right"), [("b", True), ("bb", True), ("ab", False), ("abb", True), ("aab", False)])
def test_a_token_is_wrong_where_half_of_its_raters_say_so(tmp_path: Path, raters: str, right: bool) -> None:
    said = {"a": ("<v>cat</v>s", "Minor"), "b": ("cats", "no-error")}
    rows = [HEAD, row(1, "r", "x", "a big dog", "no-error")]
    rows += [row(2, f"r{number}", "y", *said[each]) for number, each in enumerate(raters)]
    correct, block = labelled(tmp_path / "mqm", "\n".join(rows) + "\n")
    assert correct[1] == [right, True, None] and block["most_raters"] == len(raters)


def test_a_rater_of_two_systems_with_one_translation_counts_twice(tmp_path: Path) -> None:
    rows = [HEAD, row(1, "r", "x", "a big dog", "no-error"), row(2, "r", "y", "<v>cat</v>s", "Major")]
    rows += [row(2, "r", "y", "cats", "no-error", system=f"s{n}") for n in range(2)]
    assert labelled(tmp_path / "mqm", "\n".join(rows) + "\n")[0][1] == [True, True, None]


def test_lines_that_are_repeated_take_their_segments_in_turn(tmp_path: Path) -> None:
    given = [records()[1] | {"line": 0}, records()[1]]
    rows = [HEAD, row(1, "r", "y", "<v>cat</v>s", "Major"), row(2, "r", "y", "cat<v>s</v>", "Major")]
    assert labelled(tmp_path / "mqm", "\n".join(rows) + "\n", given)[0] == [[False, True, None], [True, False, None]]


def test_cells_may_be_quoted_and_texts_surrounded_by_space(tmp_path: Path) -> None:
    given = [{"line": 0, "source": 'x "y"', "translation": ' say "no"', "tokens": ["▁say", '▁"', "no", '"']}]
    rows = [HEAD, row(1, "r", '"x ""y"""', '"say ""<v>no</v>"""', "Major")]
    assert labelled(tmp_path / "mqm", "\n".join(rows) + "\n", given)[0] == [[True, True, False, True]]


@pytest.mark.parametrize(
    "text",
    [
        # half-open; without length: the character there; source and target change places from year to year, and some
        # lines end in a tab
        "s\td\t1\tr\tx\ta big dog\t2 6\t3 6\tminor major\ns\td\t2\tr\tcats\ty\t-1\t-1\tno-error\t\n",
        "lp\tgold\tsid\tmt\tstart_id\tend_id\terror\nde-en\tg\t0\ta big dog\t2 6\t3 6\tminor major\n"
        "de-en\tg\t1\tcats\t-1\t-1\tno-error\n",
    ],
)
def test_spans_of_the_shared_task_in_both_of_their_forms(tmp_path: Path, text: str) -> None:
    correct, block = labelled(tmp_path / "spans", text)
    assert correct == [[True, False, True, False, None], [True, True, None]] and block["form"] == "spans"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{HEAD}\n{row(1, 'r', 'x', 'a big dog', 'minor')}\n", "mqm: has no row of line 2 with its source"),
        (f"{HEAD}\n{row(1, 'r', 'z', 'a big dog', 'minor')}\n", "mqm: has no row of line 1 with its source"),
        (f"{HEAD}\na\tb\n", "mqm, line 2: has 2 columns, the first line 9"),
        ("de\tg\t1\ta big dog\t-1\t-1\tno-error\n", "mqm: has no row of line 1"),  # numbers count from 0
        ("de\tg\t0\ta big dog\t1\t2\tminor\nde\tg\t1\tcats\t1 2\t2\tminor\n", "mqm, line 2: not as expected"),
    ],
)
def test_spans_of_other_texts_are_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        labelled(tmp_path / "mqm", text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_line_whose_tokens_spell_another_text_has_no_labels(tmp_path: Path, capsys: Any) -> None:
    given = [records()[0], records()[1] | {"tokens": ["▁dog", "</s>"]}]
    correct, block = labelled(tmp_path / "tags", "OK OK OK\nOK\n", given)
    assert correct[1] == [None, None] and block["lines_left_out"] == 1
    assert "1 lines are left out" in capsys.readouterr().err


def simulated(seed: int, told: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """300 lines of 12 words, with what the tokens' confidence is, and a row of MQM for each error: a word is right with
    the probability that `told` gives it."""
    chooser, given, rows = np.random.default_rng(seed), [], [HEAD]
    for line in range(300):
        stated = chooser.beta(4, 1, 12)
        words = [f"w{number}" for number in chooser.integers(0, 500, 12)]
        text = " ".join(words)
        tokens = [*(f"▁{word}" for word in words), "</s>"]
        confidence = [*stated.tolist(), 0.5]
        rows.append(row(line, "r", str(line), text, "no-error"))
        for index in np.flatnonzero(chooser.random(12) >= told(stated)):
            marked = [f"<v>{word}</v>" if at == index else word for at, word in enumerate(words)]
            rows.append(row(line, "r", str(line), " ".join(marked), "Major"))
        given.append(
            {"line": line, "source": str(line), "translation": text, "tokens": tokens, "token_confidence": confidence}
        )
    return given, rows


def test_labels_drawn_with_the_probability_stated_have_the_noise_floor_as_error(tmp_path: Path) -> None:
    below, errors, floors = 0, [], []
    for seed in range(20):
        given, rows = simulated(seed, lambda stated: stated)
        labelled(tmp_path / "mqm", "\n".join(rows) + "\n", given)
        block: Any = inference(given, level="subword-labelled-by-people")
        assert block["tokens"] == 300 * 12 and block["eos"]["tokens"] == 0  # nobody has said that the end is right
        below += block["ece"] <= block["noise_floor_high"]
        errors.append(block["ece"])
        floors.append(block["noise_floor"])
    assert below >= 17
    assert np.mean(errors) == pytest.approx(np.mean(floors), rel=0.1)


def test_people_who_see_more_faults_than_alignment_raise_the_error_by_as_much(tmp_path: Path) -> None:
    given, rows = simulated(0, lambda stated: stated - 0.2 * (stated > 0.3))
    for record in given:  # by alignment the system would be calibrated
        chooser = np.random.default_rng(record["line"])
        record["correct"] = (chooser.random(13) < record["token_confidence"]).tolist()
    aligned: Any = inference(given)
    labelled(tmp_path / "mqm", "\n".join(rows) + "\n", given)
    people: Any = inference(given, level="subword-labelled-by-people")
    assert aligned["ece"] < 0.03 and people["ece"] == pytest.approx(0.2, abs=0.02)
    assert people["signed_gap"] == pytest.approx(0.2, abs=0.02)
    assert "labelled-by-people" in people["signature"] and "people" not in aligned["signature"]
