"""What the README tells people to type exists: make targets, scripts, configs, options; and CI runs it."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
SCRIPT_CALLS = [line.rpartition("| ")[2] for line in LINES if "python " in line]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[0] == "make demo\nmake test\n"


def test_every_make_command_has_its_target() -> None:
    for document in [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]:
        for target in re.findall(r"\bmake ([a-z-]+)`", document):
            assert target in TARGETS


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("pair", ["de-en", "fr-en"])
def test_make_demo_trains_translates_and_evaluates_the_pair(pair: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "demo", f"PAIR={pair}", "DEMO_DIR=here", "DEMO_OPTIONS=--train.max_steps 2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = done.stdout.replace("\\\n", " ")
    assert f"mt demo {pair} --run_dir here --train.max_steps 2" in commands


def test_continuous_integration_runs_the_two_commands() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"^make test$", script, re.MULTILINE)
    assert re.search(r"^ *make demo ", script, re.MULTILINE)


@pytest.mark.parametrize("line", SCRIPT_CALLS)
def test_a_command_names_a_script_and_options_that_exist(line: str, run_command: Any) -> None:
    python, script, *arguments = shlex.split(line)
    assert python == "python"
    shown = run_command(script, "--help").stdout
    for argument in arguments:
        if argument.startswith("--"):
            assert re.search(rf"^\s+(-\w, )?{re.escape(argument)}\b", shown, re.MULTILINE), argument
        if argument.startswith("configs/"):
            assert (ROOT / argument).is_file()


def test_the_links_of_all_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
