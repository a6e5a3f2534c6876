"""Several evaluations in one page: same test set, differences with their p values, overlays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mt.cli.report import main
from mt.errors import UserError
from mt.files.json_file import write_json
from mt.report.comparison import _table, differing, verdict_on, write_comparison
from mt.report.inputs import read_evaluation

WORDS = ["a", "man", "walks", "with", "two", "dogs", "in", "the", "old", "park"]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.metrics.quality.RESAMPLES", 400)  # enough for p < 0.05 times six measures


def evaluation(folder: Path, name: str, wrong: int, lines: int = 60, **changes: Any) -> Path:
    """An evaluation whose output is the reference, but for one word in every `wrong` lines."""
    folder.mkdir(parents=True)
    records = []
    for line in range(lines):
        reference = [*WORDS, str(line)]
        words = [*WORDS[:-1], "tree" if line % wrong == 0 else "park", str(line)]
        records.append(
            {
                "line": line,
                "source": f"Quelle {line}",
                "translation": " ".join(words),
                "reference": " ".join(reference),
                "tokens": words,
                "token_confidence": [0.95] * len(words),
                "log_probs": [-0.05] * len(words),
                "confidence": 0.95,
                "correct": [a == b for a, b in zip(words, reference)],
                "chrf": 90.0,
                **changes,
            }
        )
    bins = [
        {"low": 0.0, "high": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"low": 0.5, "high": 1.0, "count": 660, "confidence": 0.95, "accuracy": 1 - 1 / (11 * wrong)},
    ]
    block = {
        "tokens": 660,
        "ece": abs(0.95 - 1 + 1 / (11 * wrong)),
        "accuracy": 0.9,
        "confidence": 0.95,
        "bins": bins,
        "noise_floor": 0.0101,
        "signature": "ece|bins:2",
    }
    score = {"score": 90.0, "low": None, "high": None, "signature": "sig"}
    results = {
        "bleu": score,
        "chrf": score,
        "ter": score,
        "length_ratio": 1.0,
        "empties": 0,
        "beams": {},
        "beam": 5,
        "calibration": {"teacher_forced": block, "inference": block},
        "model": {"name": name},
        "data": {"source": "test.de", "references": ["test.en"], "lines": lines},
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_page_names_the_systems_and_their_differences(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second <b>", 30)]
    page = write_comparison(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "second &lt;b&gt;" in page and "second <b>" not in page
    assert page.count("<svg ") == 2  # both reliability diagrams, the systems over one another
    assert ">better</span>" in page and "B − A" in page
    rows = json.loads(page.split('id="data">')[1].split("</script>")[0])["rows"]
    assert len(rows) == 60 and [len(row["o"]) for row in rows] == [2] * 60


def test_a_better_system_is_named_with_the_size_and_the_interval_of_the_difference(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second", 30)]
    for order, better, worse in ((folders, "B", "A"), (folders[::-1], "A", "B")):
        table = _table([read_evaluation(folder) for folder in order])
        bleu = table[0].differences[0]
        low, high = sorted(abs(bleu[end]) for end in ("low", "high"))
        said = verdict_on(table, "B")
        size = f"{abs(bleu['difference']):.2f} BLEU [{low:.2f}, {high:.2f}]"
        assert said.startswith(f"{better} is better than {worse} by {size} (adjusted p ")
        assert f"; {better} is also better by chrF, TER" in said and said.count(".") == said.rstrip(".").count(".") + 1
        page = write_comparison(order, tmp_path / "compare.html").read_text(encoding="utf-8")
        assert f'<p class="verdict">{said.replace("<", "&lt;")}</p>' in page


def test_where_no_difference_can_be_told_the_sentence_says_so(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / name, name, 2) for name in "ab"]
    table = _table([read_evaluation(folder) for folder in folders])
    assert verdict_on(table, "B") == "No difference of A and B can be told: +0.00 BLEU [0.00, 0.00] (adjusted p 1.000)."
    page = write_comparison(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert '<td class="number">equal</td>' in page and "empty translations</th>" not in page


def test_what_differs_is_told_by_the_settings_that_both_know() -> None:
    first = {
        "model": {"name": "a", "loss": "ce"},
        "config": {"train": {"max_steps": 10, "precision": "auto"}, "loss": {"log_end": None}},
        "decode": {"length_alpha": 1.0},
        "evaluation": {"date": "2026-01-01", "command": "x"},
    }
    second = {
        "model": {"name": "b", "loss": "ce", "data": {"train": "ff"}},
        "config": {"train": {"max_steps": 20, "precision": "auto"}, "loss": {"log_end": 0.5}},
        "decode": {"length_alpha": 0.6},
        "evaluation": {"date": "2026-01-02", "command": "y"},
    }
    assert differing([first, second]) == [
        ("model.name", ["a", "b"]),
        ("train.max_steps", [10, 20]),
        ("loss.log_end", [None, 0.5]),
        ("decode.length_alpha", [1.0, 0.6]),
    ]
    assert differing([first, first]) == []
    assert differing([{"model": {"name": "a"}}, second]) == [("model.name", ["a", "b"])]  # of an earlier version


def with_sums(folder: Path, nll: float) -> Path:
    """The evaluation, its records with sums of the reference as prefix: of 3 tokens, a gap in the last bin."""
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    for number, record in enumerate(records):
        gaps = [0.0] * 14 + [-0.3 * nll]
        record["teacher_forced"] = {"tokens": 3, "nll": nll + number % 3 / 100, "gaps": gaps}
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_differences_with_the_reference_as_prefix_are_tested_where_records_tell_the_sums(tmp_path: Path) -> None:
    made = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second", 2)]
    table = {row.name: row for row in _table([read_evaluation(folder) for folder in made])}
    assert table["ECE (teacher-forced)"].differences == [None] == table["NLL (teacher-forced)"].differences
    evaluations = [read_evaluation(with_sums(folder, nll)) for folder, nll in zip(made, (0.5, 0.8))]
    table = {row.name: row for row in _table(evaluations)}
    errors, likelihoods = (table[f"{name} (teacher-forced)"].differences[0] for name in ("ECE", "NLL"))
    assert likelihoods["difference"] == pytest.approx(0.1) and errors["difference"] == pytest.approx(0.03)
    assert table["ECE (output)"].differences[0]["difference"] == 0
    tested = [row.differences[0] for row in table.values() if row.differences[0]]
    assert len(tested) == 6  # BLEU, chrF, TER, both calibration errors and the NLL
    smallest = min(each["p"] for each in tested)
    assert likelihoods["p"] == errors["p"] == smallest < 0.006
    assert likelihoods["adjusted_p"] == pytest.approx(6 * smallest)  # Holm's first step
    assert all(each["p"] <= each["adjusted_p"] <= 1 for each in tested)


def test_names_are_drawn_letter_by_letter_and_long_ones_cut(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ["模型 $x^2$\nline\x00 two", "$" * 5000]
    folders = [evaluation(tmp_path / letter, name, 2) for letter, name in zip("ab", names)]
    page = write_comparison(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert ">A 模型 $x^2$ line  two  ECE" in page and f">B {'$' * 27}…  ECE" in page
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_the_same_evaluations_give_the_same_page(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second", 3)]
    pages = [write_comparison(folders, tmp_path / name).read_bytes() for name in ("1.html", "2.html")]
    assert pages[0] == pages[1]


def test_systems_of_one_name_go_by_their_folders(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / name / "evaluation", "same", 2) for name in ("one", "two")]
    page = write_comparison(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "one/evaluation" in page and "two/evaluation" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lines": 59}, "60 and 59 lines"),
        ({"reference": "x"}, "line 1 differs in source or reference"),
        ({"source": "x"}, "line 1 differs in source or reference"),
    ],
)
def test_evaluations_of_different_test_sets_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    folders = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second", 2, **change)]
    with pytest.raises(UserError, match=said) as raised:
        write_comparison(folders, tmp_path / "compare.html")
    assert "\n" not in str(raised.value) and not (tmp_path / "compare.html").exists()


def test_too_many_evaluations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="7 evaluations are too many"):
        write_comparison([tmp_path] * 7, tmp_path / "compare.html")


def test_without_token_probabilities_quality_is_compared_all_the_same(tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a", "first", 2), evaluation(tmp_path / "b", "second", 3)]
    results = json.loads((folders[1] / "results.json").read_text())
    results["calibration"] = {"teacher_forced": None, "inference": None}
    (folders[1] / "results.json").write_text(json.dumps(results))
    records = [{"line": line, "translation": "a", "reference": " ".join([*WORDS, str(line)])} for line in range(60)]
    (folders[1] / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = write_comparison(folders, tmp_path / "compare.html").read_text(encoding="utf-8")
    assert ">worse</span>" in page and "<svg " not in page


def test_command_makes_one_page_again_or_compares_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(evaluation(tmp_path / "a", "first", 2)), str(evaluation(tmp_path / "b", "second", 3))]
    assert main(folders[:1]) == 0
    assert (tmp_path / "a" / "report.html").exists()
    assert main([*folders, "--output", str(tmp_path / "c.html")]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "a" / "report.html"), str(tmp_path / "c.html")]
    with pytest.raises(UserError, match="--output is missing"):
        main(folders)
    with pytest.raises(UserError, match="--output goes with several"):
        main([folders[0], "--output", "x.html"])


@pytest.mark.parametrize("changed", ["bins", "breakdown"])
def test_wrong_values_in_results_without_a_checksum_are_laid_to_the_file(tmp_path: Path, changed: str) -> None:
    folder = evaluation(tmp_path / "a", "first", 2)
    results = json.loads((folder / "results.json").read_text())
    wrong = {
        "bins": [{"low": None, "high": 1, "count": 1}],
        "breakdown": {"frequency": [{"accuracy": "x", "confidence": 1}]},
    }
    results["calibration"]["inference"][changed] = wrong[changed]
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(UserError, match=r"a/results\.json: not as expected .*; run evaluate again"):
        main([str(folder)])
    (folder / "results.json").unlink()
    write_json(folder / "results.json", results)
    with pytest.raises((KeyError, TypeError)):  # what we wrote ourselves is our fault
        main([str(folder)])


def test_door_answers_without_big_libraries() -> None:
    heavy = "{'torch', 'matplotlib', 'sacrebleu', 'numpy'}"
    code = f"import sys, mt.cli.report; print(*({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
