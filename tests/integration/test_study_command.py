"""`tools/study.py` as a user runs it: the plan, errors, the page in a real browser, a study that is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = """
title: A small study of <losses> & beams
indication: true
corpora:
  g:
    config: demo-de-en.yaml
    settings:
      data.train: [{grammar: {pairs: 600, seed: 1}}]
      data.valid: [{grammar: {pairs: 20, seed: 2}, split: valid}]
      train.max_steps: 6
      train.warmup_steps: 2
      train.validate_every: 3
      train.precision: float32
      train.batch_tokens: 512
      model.width: 32
      model.encoder_layers: 1
      model.decoder_layers: 1
    tests: {test: {pairs: 20, seed: 3}}
variants: {ce: {loss.smoothing: 0}, ls: {loss.smoothing: 0.1}}
searches: {none1: {beam: 1, length_penalty: none}, none3: {beam: 3, length_penalty: none}}
grid:
  - {corpus: g, variants: [ce, ls], seeds: [1, 2]}
  - {corpus: g, variants: [ce], seeds: [1], searches: [none1, none3]}
  - {corpus: g, variants: [ls], seeds: [3]}
questions:
  b: {statement: Smoothing helps calibration., comparisons: [
      {first: g/plain/ls, second: g/plain/ce, outcome: ece, claim: lower}]}
  c: {statement: It learns faster., comparisons: [
      {first: g/plain/ls, second: g/plain/ce, outcome: early_bleu, claim: higher}]}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study file beside the shipped configs, as it is in the repository."""
    (tmp_path / "configs" / "studies").mkdir(parents=True)
    shutil.copy(ROOT / "configs" / "demo-de-en.yaml", tmp_path / "configs")
    path = tmp_path / "configs" / "studies" / "small.yaml"
    path.write_text(SMALL, encoding="utf-8")
    return path


def command(study: Path, *options: str) -> list[str]:
    return [sys.executable, str(ROOT / "tools" / "study.py"), str(study), *options]


def run(study: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(study, *options), capture_output=True, text=True, timeout=600, check=False)


def test_a_dry_run_prints_cells_questions_and_time_and_makes_nothing(study: Path, tmp_path: Path) -> None:
    done = run(study, "--output", str(tmp_path / "out"), "--dry_run")
    assert done.returncode == 0, done.stderr
    assert "g/plain/ls/seed-3" in done.stdout
    assert "b. Smoothing helps calibration." in done.stdout
    assert "5 cells, about" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--only", "x*"], "no cell fits --only x*"),
        (["--seeds", "1,two"], "--seeds"),
        (["--results", "no.json"], "no.json"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(study: Path, tmp_path: Path, options: list[str], told: str) -> None:
    done = run(study, "--output", str(tmp_path / "out"), *options)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def finished(study: Path, output: Path) -> None:
    done = run(study, "--output", str(output), "--threads", "1")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_study_that_was_killed_twice_ends_with_the_same_table(study: Path, tmp_path: Path) -> None:
    finished(study, tmp_path / "whole")
    output = tmp_path / "killed"
    cells = output / "cells" / "g" / "plain"
    for seen in (
        cells / "ce" / "seed-1" / "run" / "checkpoints" / "step_00000003",
        cells / "ls" / "seed-1" / "cell.json",
    ):
        process = subprocess.Popen(command(study, "--output", str(output), "--threads", "1"), start_new_session=True)
        deadline = time.monotonic() + 300
        while not seen.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finished(study, output)
    assert (output / "table.md").read_text() == (tmp_path / "whole" / "table.md").read_text()
    first = (output / "cells" / "g" / "plain" / "ce" / "seed-1" / "cell.json").stat().st_mtime_ns
    finished(study, output)
    assert (output / "cells" / "g" / "plain" / "ce" / "seed-1" / "cell.json").stat().st_mtime_ns == first
    for old, new, told in (
        ("train.max_steps: 6", "train.max_steps: 7", "another train.max_steps than"),
        ("pairs: 20, seed: 3", "pairs: 20, seed: 4", "another text test than"),
        ("none3: {beam: 3", "none3: {beam: 4", "another search none3 than"),
    ):
        study.write_text(SMALL.replace(old, new), encoding="utf-8")
        done = run(study, "--output", str(output), "--threads", "1")
        assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
def test_a_study_ends_with_table_page_and_figures_that_its_results_alone_can_make_again(
    study: Path, tmp_path: Path
) -> None:
    finished(study, tmp_path / "out")
    out = tmp_path / "out"
    results = json.loads((out / "results.json").read_text())
    assert [len(cell["tests"]["test"]["searches"]) for cell in results["cells"]] == [2, 0, 0, 0, 0]
    (comparison,) = results["questions"]["b"]["comparisons"]
    assert comparison["seeds"] == 2
    effects = {cell["name"]: cell["tests"]["test"]["ece"] for cell in results["cells"]}
    by_hand = sum(effects[f"g/plain/ls/seed-{n}"] - effects[f"g/plain/ce/seed-{n}"] for n in (1, 2)) / 2
    assert comparison["effect"] == pytest.approx(by_hand, abs=2e-6)
    assert "indication only" in (out / "table.md").read_text()
    again = run(study, "--results", str(out / "results.json"), "--output", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    made = {path.name for path in (tmp_path / "again").iterdir()}
    assert {"study.html", "table.md", "times.md", "comparisons.svg", "truth-g.svg", "padding.svg"} <= made
    assert {name: (out / name).read_bytes() for name in made} == {
        name: (tmp_path / "again" / name).read_bytes() for name in made
    }
    assert "&lt;losses&gt; &amp; beams" in (out / "study.html").read_text()


def test_the_page_of_the_committed_results_opens_without_an_error(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    results = ROOT / "docs" / "study" / "results.json"
    done = run(ROOT / "configs" / "studies" / "full.yaml", "--results", str(results), "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    said: list[str] = []
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((tmp_path / "out" / "study.html").as_uri())
        verdicts = page.locator("#verdicts tbody tr").count()
        overflow = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        browser.close()
    assert said == []
    assert verdicts == len(json.loads(results.read_text())["questions"])
    assert not overflow  # on a telephone tables scroll in themselves
