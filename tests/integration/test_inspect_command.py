"""tools/inspect.py on a model with random weights: its files, its page, and that it hides no library's module."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from mt.errors import UserError
from mt.report.inspection import write_inspection

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = ["<script>window.hacked = 1</script>", "\"><img src=x onerror='window.hacked = 1'>", "$\\frac{"]


@pytest.fixture
def inspection(tiny_model: Path, tmp_path: Path, run_command: Callable[..., Any]) -> Path:
    """The folder of an inspection."""
    text = ["--source", tmp_path / "train.de", "--reference", tmp_path / "train.en"]
    done = run_command("tools/inspect.py", tiny_model, *text, "--output", tmp_path / "out", "--threads", 1)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table] == [
        "pieces",
        "within",
        "margin",
        "margin",
        "distances",
        "hardest",
        "page:",
    ]
    assert table[-1] == f"page: {tmp_path / 'out' / 'inspection.html'}"
    return tmp_path / "out"


def test_figures_and_page_are_written_beside_the_numbers(inspection: Path) -> None:
    names = ["gradient_norm", "gradient_pull", "margins", "projection"]
    assert sorted(path.name for path in inspection.iterdir()) == ["figures", "inspection.html", "inspection.json"]
    drawn = sorted((inspection / "figures").iterdir())
    assert [path.name for path in drawn] == [f"inspection_{name}.svg" for name in names]
    page = (inspection / "inspection.html").read_text(encoding="utf-8")
    for path in drawn:
        svg = path.read_text(encoding="utf-8")
        assert ElementTree.fromstring(svg).get("aria-label")
        assert svg.strip() in page
    found = json.loads((inspection / "inspection.json").read_text(encoding="utf-8"))
    assert found["loss"] == "ls:0.1|target:uniform_nopad|kl" and found["margins"]["expected"] > 0
    assert str(inspection.parent) not in json.dumps(found)
    assert write_inspection(inspection).read_text(encoding="utf-8") == page


def test_a_damaged_file_of_numbers_is_refused(inspection: Path) -> None:
    path = inspection / "inspection.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"nll"', '"nil"', 1), encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        write_inspection(inspection)


def make_hostile(inspection: Path) -> Path:
    """The page of the same inspection, with other pieces, and as it is of a loss that has no gradient of one token."""
    path = inspection / "inspection.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    del found["checksum"]
    for number, each in enumerate([*found["projection"], *found["hardest_pieces"], *found["hardest_tokens"]]):
        each |= {"piece": HOSTILE[number % 3], "predicted": HOSTILE[0], "confusion": HOSTILE[1]}
    found["data"] |= {"source": HOSTILE[0], "references": HOSTILE}
    found["model"]["name"] = HOSTILE[0]
    found["gradients"] |= {"loss_norm": [None] * 10, "loss_pull": [None] * 10}
    path.write_text(json.dumps(found), encoding="utf-8")
    return write_inspection(inspection)


def test_markup_in_pieces_stays_text(inspection: Path) -> None:
    page = make_hostile(inspection).read_text(encoding="utf-8")
    assert "<script" not in page and "<img" not in page
    assert "&lt;script&gt;" in page
    assert "The training loss has none for one token alone." in page


def test_the_page_opens_in_a_browser_without_complaint(inspection: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the dev extra has it)")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    address, complaints, requests = make_hostile(inspection).as_uri(), [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        assert page.title() == f"Inside {HOSTILE[0]}"
        assert page.locator("figure svg").count() == 4
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.evaluate("window.hacked") is None
        browser.close()
    assert complaints == [] and [url for url in requests if not url.startswith("data:")] == [address]


def test_pieces_are_drawn_by_name_and_others_refused(
    inspection: Path, tiny_model: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    found = json.loads((inspection / "inspection.json").read_text(encoding="utf-8"))
    text = ["--source", tmp_path / "train.de", "--reference", tmp_path / "train.en"]
    named = ["</s>", *(each["piece"] for each in found["projection"][:2])]
    output = ["--output", tmp_path / "out"]
    done = run_command("tools/inspect.py", tiny_model, *text, *output, "--pieces", ",".join(named), "--groups", 7)
    assert done.returncode == 0 and "</s> (100), ▁" in done.stdout and "(7), " in done.stdout, done.stderr
    for words, options in (
        ("no piece ▁horse", [*output, "--pieces", "</s>,▁,▁horse"]),
        ("train.de", ["--output", tmp_path / "train.de" / "out"]),
    ):
        done = run_command("tools/inspect.py", tiny_model, *text, *options)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and words in done.stderr


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_a_tool_gets_the_librarys_inspect_not_the_one_beside_it(name: str, tmp_path: Path) -> None:
    code = "import sys; sys.path[0] = {0!r}; import runpy; assert 'inspect' not in sys.modules; "
    code += "runpy.run_path({1!r}); import inspect; print(inspect.__file__)"
    command = [sys.executable, "-c", code.format(str(ROOT / "tools"), str(ROOT / "tools" / name))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "tools" not in Path(done.stdout.strip()).parts
