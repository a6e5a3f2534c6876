"""The layers of the package: imports run downwards only, and what must be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LAYERS = {
    **dict.fromkeys(("settings", "search_config", "loss_config", "config", "config_file"), 0),
    **dict.fromkeys(("errors", "progress", "processes", "files"), 0),
    "grammar": 1,
    "losses": 1,
    "corpus": 2,
    "metrics": 3,
    "calibration": 4,
    "model": 4,
    "decoding": 5,
    "evaluation": 6,
    "bulk": 6,
    "interop": 6,
    "report": 7,
    "serving": 8,
    "training": 8,
    "cli": 9,
    "__main__": 10,
}

MODULES = sorted(path.relative_to(ROOT) for path in (ROOT / "mt").rglob("*.py"))


def imported_names(source: str, package: list[str]) -> Iterator[str]:
    """Full names of all imports, wherever they stand; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def violations(module: Path, source: str) -> list[str]:
    """Imports of `module` (mt/folder/name.py) that do not point downwards or into its own folder."""
    own = module.with_suffix("").parts[1]
    found = []
    for name in imported_names(source, list(module.parts[:-1])):
        parts = name.split(".")
        if parts[0] != "mt" or parts[1:] == ["__version__"]:
            continue
        if own == "cli" and name == "mt.load":  # the package's own door, which leads to decoding
            continue
        area = parts[1] if len(parts) > 1 else "(mt itself)"
        if area != own and LAYERS.get(area, 99) >= LAYERS[own] and not (LAYERS[own] == LAYERS.get(area) == 0):
            found.append(f"{module} imports {name}")
    return found


def test_every_module_has_a_layer() -> None:
    areas = {path.with_suffix("").parts[1] for path in MODULES} - {"__init__"}
    assert areas <= set(LAYERS)


@pytest.mark.parametrize("module", [path for path in MODULES if path != Path("mt/__init__.py")], ids=str)
def test_imports_run_downwards(module: Path) -> None:
    assert violations(module, (ROOT / module).read_text(encoding="utf-8")) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checkers count as well."""
    known = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    below: dict[str, set[str]] = {}
    for name, path in known.items():
        found = imported_names((ROOT / path).read_text(encoding="utf-8"), list(path.parts[:-1]))
        targets = {each if each in known else each.rpartition(".")[0] for each in found} & known.keys()
        # a package's own face is imported with every module of it: only what a module asks for counts
        below[name] = {each for each in targets if known[each].name != "__init__.py"} - {name}
    # what imports nothing of the rest, or is imported by nothing of it, is in no circle
    while ends := [
        name
        for name, targets in below.items()
        if not targets & below.keys() or not any(name in others for others in below.values())
    ]:
        for name in ends:
            del below[name]
    assert sorted(below) == []


LONGEST_MODULE, LONGEST_FUNCTION = 350, 60


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_modules_and_functions_fit_a_reader(module: Path) -> None:
    source = (ROOT / module).read_text(encoding="utf-8")
    assert source.count("\n") <= LONGEST_MODULE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, node.name


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mt/losses/a.py", "from mt.model.transformer import Transformer"),
        ("mt/losses/a.py", "def f():\n    import mt.corpus.text"),  # the same layer, another folder
        ("mt/decoding/a.py", "from mt import evaluation"),
        ("mt/decoding/a.py", "from mt import load"),
        ("mt/model/a.py", "import mt"),
        ("mt/corpus/a.py", "from ..training import loop"),
    ],
)
def test_an_import_upwards_is_found(module: str, source: str) -> None:
    assert len(violations(Path(module), source)) == 1


@pytest.mark.parametrize(
    "source",
    ["from mt.errors import UserError", "from . import cache", "from mt.losses import projection", "import os"],
)
def test_an_import_downwards_is_allowed(source: str) -> None:
    assert violations(Path("mt/model/a.py"), source) == []


def test_the_config_imports_only_its_own_sections() -> None:
    names = imported_names((ROOT / "mt/config.py").read_text(encoding="utf-8"), ["mt"])
    own = ("mt.settings", "mt.search_config", "mt.loss_config")
    assert [name for name in names if name.startswith("mt") and not name.startswith(own)] == []


def test_the_report_never_imports_torch() -> None:
    for path in (ROOT / "mt/report").rglob("*.py"):
        assert not [name for name in imported_names(path.read_text("utf-8"), []) if name.split(".")[0] == "torch"]


@pytest.mark.parametrize(
    "module",
    [
        "mt",
        "mt.config",
        "mt.config_file",
        "mt.corpus",
        "mt.report.page",
        "mt.cli.train",
        "mt.cli.translate",
        "mt.cli.translate_corpus",
        "mt.cli.prepare",
        "mt.cli.evaluate",
        "mt.cli.score",
        "mt.cli.serve",
    ],
)
def test_importing_is_light(module: str) -> None:
    heavy = "{'torch', 'datasets', 'matplotlib', 'sacrebleu', 'tensorboard', 'pandas', 'ray'}"
    code = f"import sys, {module}; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
