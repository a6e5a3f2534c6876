"""The files of an evaluation: they belong together, or are seen not to, wherever their writing ends."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU

from mt.cli.evaluate import main
from mt.errors import UserError
from mt.evaluation.run import evaluate_records
from mt.evaluation.test_set import fingerprint, read_test_set
from mt.report.comparison import write_comparison
from mt.report.inputs import read_evaluation
from mt.report.page import write_report

REFERENCES = ["a dog runs", "the man sings", "a cat sleeps"]
OUTPUTS = {"first": ["a dog runs", "the man sings", "a cat"], "second": ["a dog", "a man sings", "a cat sleeps"]}


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.report.figures.svg_element", lambda name, draw, description: f"<svg>{name}</svg>")


def lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def evaluated(folder: Path, name: str) -> Path:
    """An evaluation of one of OUTPUTS, with its page."""
    records = [
        {"translation": text, "tokens": text.split(), "log_probs": [-0.1] * len(text.split())} for text in OUTPUTS[name]
    ]
    path = lines(folder.parent / f"{name}.jsonl", [json.dumps(record) for record in records])
    test_set = read_test_set(None, [lines(folder.parent / "test.en", REFERENCES)])
    evaluate_records(path, test_set, folder, bootstrap=0)
    write_report(folder)
    return folder


def whose(folder: Path) -> str | None:
    """Whose output the folder is an evaluation of; None where it is seen to be none."""
    try:
        evaluation = read_evaluation(folder)
    except UserError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        return None
    texts = [record["translation"] for record in evaluation.records]
    assert evaluation.results["model"]["fingerprint"] == fingerprint(texts)
    assert evaluation.results["bleu"]["score"] == pytest.approx(
        BLEU(force=True).corpus_score(texts, [REFERENCES]).score
    )
    if (folder / "report.html").exists():
        assert fingerprint(texts) in (folder / "report.html").read_text(encoding="utf-8")
    return next(name for name, output in OUTPUTS.items() if output == texts)


@pytest.mark.parametrize("earlier_version", [False, True])
def test_a_kill_at_any_file_operation_leaves_no_mixture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier_version: bool
) -> None:
    old = evaluated(tmp_path / "old", "first")
    if earlier_version:
        results = json.loads((old / "results.json").read_text())
        del results["files"], results["checksum"]
        (old / "results.json").write_text(json.dumps(results))
    left = 0

    def counted(operation: Any) -> Any:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:  # and nothing more is done, as cleaning up would be
                raise Killed
            return operation(*arguments, **options)

        return run

    found = []
    for operations in range(100):
        folder = tmp_path / "new"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(old, folder)
        lines(folder / "notes.txt", ["the user's own"])
        left = operations
        try:
            with monkeypatch.context() as patch:
                for owner, name in ((os, "replace"), (os, "fsync"), (Path, "unlink"), (Path, "write_bytes")):
                    patch.setattr(owner, name, counted(getattr(owner, name)))
                evaluated(folder, "second")
        except Killed:
            found.append(whose(folder))
            assert (folder / "notes.txt").exists()
            continue
        break
    assert whose(folder) == "second"
    assert found[0] == "first" and None in found and found[-1] == "second"
    assert found == sorted(found, key=["first", None, "second"].index)


def test_a_failure_before_the_files_are_moved_leaves_the_old_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(tmp_path / "e", "first")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    monkeypatch.setattr("mt.evaluation.run.write_json", lambda path, content: (_ for _ in ()).throw(UserError("full")))
    with pytest.raises(UserError, match="full"):
        evaluated(folder, "second")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["records.jsonl", "hypotheses.txt", "results.json"])
def test_a_file_of_another_evaluation_is_refused_by_page_and_comparison(tmp_path: Path, name: str) -> None:
    first, second = evaluated(tmp_path / "a", "first"), evaluated(tmp_path / "b", "second")
    shutil.copy(first / name, second / name)
    for write in (lambda: write_report(second), lambda: write_comparison([first, second], tmp_path / "c.html")):
        with pytest.raises(UserError, match="run evaluate again") as raised:
            write()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "c.html").exists()


def test_figures_and_page_of_an_earlier_evaluation_are_gone(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "e", "first")
    for name in ("sweep_9.svg", "mine.svg"):
        (folder / "figures" / name).write_text("<svg/>")
    evaluated(folder, "second")
    names = {path.name for path in (folder / "figures").iterdir()}
    assert "sweep_9.svg" not in names and {"mine.svg", "reliability_inference.svg"} <= names


def test_results_behind_a_link_stay_behind_it(tmp_path: Path) -> None:
    folder = evaluated(tmp_path / "e", "first")
    (folder / "results.json").rename(tmp_path / "kept.json")
    (folder / "results.json").symlink_to(tmp_path / "kept.json")
    evaluated(folder, "second")
    assert (folder / "results.json").is_symlink() and whose(folder) == "second"


CHINESE = ["今天下午我们去公园散步。", "她昨天买了一本旧书。", "那只黑狗在院子里跑。", "老师正在教室里上课。"]
NEARLY = ["今天下午我们去公园走走。", "她昨天买了一本新书。", "这只黑狗在院子里跑。", "老师正在教室里讲课。"]


def chinese(folder: Path, texts: list[str], *options: str) -> Path:
    path = lines(folder.parent / "zh.jsonl", [json.dumps({"translation": text}) for text in texts])
    reference = lines(folder.parent / "test.zh", CHINESE)
    arguments = ["--records", str(path), "--reference", str(reference), "--bootstrap", "20", "--output", str(folder)]
    assert main([*arguments, *options]) == 0
    return folder


def test_the_target_language_chooses_bleus_tokeniser_and_comparisons_keep_to_it(tmp_path: Path) -> None:
    first = chinese(tmp_path / "a", NEARLY, "--target_language", "zh-CN")
    results = json.loads((first / "results.json").read_text(encoding="utf-8"))
    assert results["bleu"]["score"] == pytest.approx(BLEU(trg_lang="zh").corpus_score(NEARLY, [CHINESE]).score)
    assert "tok:zh" in results["bleu"]["signature"] and results["data"]["target_language"] == "zh-CN"
    records = [json.loads(line) for line in (first / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(record["bleu"] > 40 for record in records)
    second = chinese(tmp_path / "b", CHINESE, "--target_language", "zho_Hans")
    page = write_comparison([first, second], tmp_path / "c.html").read_text(encoding="utf-8")
    assert f"{100 - results['bleu']['score']:+.2f}" in page
    third = chinese(tmp_path / "d", NEARLY)
    assert "tok:13a" in json.loads((third / "results.json").read_text(encoding="utf-8"))["bleu"]["signature"]
    with pytest.raises(UserError, match=r"different tokenisers for BLEU, zh and 13a; .*--target_language"):
        write_comparison([first, third], tmp_path / "c2.html")
