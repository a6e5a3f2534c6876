"""docs/demo.ipynb: ten cells without outputs, and its code runs from the first to the last, ending with the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "docs" / "demo.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

# The cells as a kernel runs them: in one namespace, in a process whose main module is no file. In place of Jupyter's
# display: what the notebook would show is kept.
KERNEL = """\
import json, sys, types
shown = types.ModuleType("IPython.display")
shown.HTML, shown.display = str, lambda page: open("shown.html", "w", encoding="utf-8").write(page)
sys.modules["IPython.display"] = shown  # not IPython itself, which matplotlib would ask for its version
for number, cell in enumerate(json.loads(sys.stdin.read())):
    exec(compile(cell, f"cell {number}", "exec"), globals())
"""


def test_the_notebook_has_ten_cells_and_holds_no_outputs() -> None:
    assert len(NOTEBOOK["cells"]) == 10
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == 10
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell["id"]


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_order_and_show_the_page(tmp_path: Path) -> None:
    short = {
        '"--train.max_steps", "1200"]': '"--train.max_steps", "20", "--train.warmup_steps", "5"]',
        '"de", "en"), 1000,': '"de", "en"), 60,',
    }
    cells = CODE
    for long, shorter in short.items():
        assert sum(cell.count(long) for cell in cells) == 1, long
        cells = [cell.replace(long, shorter) for cell in cells]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KERNEL]
    done = subprocess.run(
        command, input=json.dumps(cells), cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "ECE teacher-forced" in done.stdout and "the truth: BLEU" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "shown.html"}
    report = tmp_path / "runs" / "notebook" / "evaluation" / "report.html"
    shown = (tmp_path / "shown.html").read_text(encoding="utf-8")
    assert report.stat().st_size < len(shown) and "&lt;!doctype html&gt;" in shown.lower()
