"""`mt COMMAND`: what is named, helped, versioned and copied; and the whole demo from an installed copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mt import __version__
from mt.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
CALL = "import sys; from mt.cli.commands import main; sys.argv[0] = 'mt'; sys.exit(main())"


def mt(*arguments: str, folder: Path, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", CALL, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_all_are_listed_in_a_line_each(arguments: list[str], tmp_path: Path) -> None:
    done = mt(*arguments, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = re.findall(r"^  ([a-z-]+)  +\S.*$", done.stdout, re.MULTILINE)
    assert listed == [*COMMANDS]
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_and_version_of_every_command(command: str, tmp_path: Path) -> None:
    shown = mt(command, "--help", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.match(f"usage: mt {command}", shown.stdout) and re.search(f"^  mt {command}", shown.stdout, re.MULTILINE)
    assert ".py" not in shown.stdout.split("example:")[1]
    assert mt(command, "--version", folder=tmp_path).stdout == f"mt {__version__}\n"


def test_an_unknown_command_gets_the_nearest_one(tmp_path: Path) -> None:
    done = mt("trian", folder=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: mt: no command trian; did you mean train?\n")


def test_what_lists_the_commands_imports_no_torch(tmp_path: Path) -> None:
    code = "import sys; from mt.cli.commands import main; sys.argv = ['mt', '--help']\ntry: main()\n"
    code += "finally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("False False\n")


def test_shipped_configs_are_listed_copied_once_and_run_by_name(tmp_path: Path) -> None:
    listed = mt("configs", folder=tmp_path).stdout
    assert re.search(r"^demo-de-en  +\S", listed, re.MULTILINE) and "studies/quick" in listed
    assert mt("configs", "demo-de-en", folder=tmp_path).stdout == "demo-de-en.yaml\n"
    assert (tmp_path / "demo-de-en.yaml").read_bytes() == (ROOT / "configs" / "demo-de-en.yaml").read_bytes()
    again = mt("configs", "demo-de-en", folder=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    unknown = mt("configs", "demo", folder=tmp_path)
    assert unknown.returncode == 2 and "demo-de-en" in unknown.stderr
    named = mt("train", "multi30k-de-en", "--print_config", folder=tmp_path)
    assert (named.returncode, named.stderr) == (0, "") and "multi30k" in named.stdout
    wrong = mt("train", "multi30k", folder=tmp_path)
    assert wrong.returncode == 2 and "mt configs" in wrong.stderr and wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(("module", "package"), [("yaml", "PyYAML"), ("torch", "torch"), ("msgspec", "msgspec")])
def test_a_missing_package_is_one_line(module: str, package: str, tmp_path: Path) -> None:
    hidden = f"import sys; sys.modules['{module}'] = None; sys.argv[0] = 'mt'\n"
    code = hidden + "from mt.cli.commands import main\nsys.exit(main())"
    (tmp_path / "f").write_text("x\n")
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "m", "--source", "f", "--reference", "f", "--output", "x"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {package} is not installed for ") and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip unpacks it."""
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, which builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    wheel = next(hatchling.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"]))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_configs_studies_and_benchmarks_and_nothing_beside_mt(installed: Path) -> None:
    assert [path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")] == ["mt"]
    shipped = installed / "mt" / "shipped"
    for folder in ("configs", "tools/studies", "benchmarks"):
        of = {
            str(path.relative_to(ROOT / folder))
            for path in (ROOT / folder).rglob("*.*")
            if "__pycache__" not in path.parts
        }
        there = {str(path.relative_to(shipped / folder)) for path in (shipped / folder).rglob("*.*")}
        assert there == of, folder
    assert (installed / "mt" / "data" / "grammar").is_dir()


@pytest.mark.parametrize("command", ["study", "bench", "configs"])
def test_an_installed_copy_has_the_commands_that_lie_beside_the_package(
    command: str, installed: Path, tmp_path: Path
) -> None:
    shown = mt(command, "--help", folder=tmp_path, path=installed)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert mt("configs", folder=tmp_path, path=installed).stdout == mt("configs", folder=tmp_path).stdout
    planned = mt("study", "studies/quick", "--output", "x", "--dry_run", folder=tmp_path, path=installed)
    assert planned.returncode == 0 and "cells, about" in planned.stdout


@pytest.mark.slow
def test_the_demo_of_an_installed_copy_ends_with_the_page(installed: Path, tmp_path: Path) -> None:
    short = "--train.max_steps 40 --train.warmup_steps 10 --train.validate_every 20 --train.log_every 20"
    done = mt("demo", "fr-en", *short.split(), folder=tmp_path, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "report: runs/demo-fr-en/evaluation/report.html"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert json.loads((tmp_path / "runs/demo-fr-en/evaluation/results.json").read_text())["truth"]


def test_a_demo_whose_training_fails_ends_with_its_code(tmp_path: Path) -> None:
    done = mt("demo", "--train.max_steps", "none", folder=tmp_path)
    assert done.returncode == 2 and "train.max_steps" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[0] == "$ mt train demo-de-en --run_dir runs/demo-de-en --train.max_steps none"


def test_the_demo_names_the_pairs_there_are(tmp_path: Path) -> None:
    done = mt("demo", "de-fr", folder=tmp_path)
    assert done.returncode == 2 and "fr-en" in done.stderr
    assert shutil.which("true") is None or not list(tmp_path.iterdir())
