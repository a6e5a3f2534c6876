"""Mutation testing: small faults put into losses, search, calibration and batching; do the tests notice?

    python tests/mutants/run.py [--count 150] [--seed 1] [--only mt/losses] [--jobs 2]

Each mutant is one change of one expression in one module: another comparison, sign, border, constant or order. The
module's own unit tests run on it, in a copy of the repository, until the first one fails. Exit code 1 when fewer than
95 % are killed, or when one survives for which `SURVIVORS` has no reason.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("mt", "data", "configs", "tools", "tests", "benchmarks", "pyproject.toml", "train.py", "translate.py")
LOWEST_SHARE = 0.95
LIMIT_SECONDS = 600  # a mutant that loops for ever is noticed, too

_LOSSES = ["tests/unit/losses", "tests/unit/test_oracle.py"]
_SEARCH = [
    f"tests/unit/decoding/test_{name}.py"
    for name in ("beam_search", "penalties", "search_methods", "target_prefixes", "scoring", "translator", "alignment")
]
_METRICS = ["tests/unit/metrics", "tests/unit/test_oracle.py", "tests/unit/evaluation"]
_BATCHES = ["tests/unit/corpus/test_batching.py", "tests/unit/corpus/test_store.py", "tests/unit/training/test_data.py"]
TESTS = {
    **dict.fromkeys(
        [f"mt/losses/{name}.py" for name in ("encouraging", "smoothing", "targets", "projection", "relatives")], _LOSSES
    ),
    "mt/decoding/beam_search.py": _SEARCH,
    **dict.fromkeys([f"mt/metrics/{name}.py" for name in ("bins", "labels", "maps", "noise", "ranks")], _METRICS),
    "mt/evaluation/tokens.py": _METRICS,
    "mt/corpus/batching.py": _BATCHES,
    "mt/corpus/epochs.py": _BATCHES,
}
"""module: the tests that should notice"""

SURVIVORS: dict[str, str] = {}
"""what survives with a reason; see `Mutant.key`"""

_COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin"}


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    line: int
    start: int
    """first byte of what is replaced"""
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """What names it in `SURVIVORS`: line numbers change too often."""
        return f"{self.module}: {self.before} -> {self.after}"

    def mutated(self, source: bytes) -> bytes:
        """The module's source with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants(module: str, source: bytes) -> Iterator[Mutant]:
    """All mutants of a module; annotations, texts and messages of errors are left as they are."""
    starts = [0]
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for node in _code(ast.parse(source)):
        for changed in _changes(node):
            start, end = (starts[line - 1] + column for line, column in _place(node))
            after = ast.unparse(changed)
            yield Mutant(module, node.lineno, start, end, " ".join(source[start:end].decode().split()), f"({after})")


def _place(node: ast.expr) -> Iterator[tuple[int, int]]:
    yield node.lineno, node.col_offset
    assert node.end_lineno is not None and node.end_col_offset is not None
    yield node.end_lineno, node.end_col_offset


def _code(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that decide what the code does."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
        return
    if isinstance(node, ast.expr):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child)


def _changes(node: ast.expr) -> Iterator[ast.expr]:
    """The node with one thing changed."""
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare) and type(changed.ops[0]) in _COMPARISONS:
        changed.ops[0] = _COMPARISONS[type(changed.ops[0])]()
        yield changed
    elif isinstance(changed, ast.BinOp) and type(changed.op) in _ARITHMETIC:
        changed.op = _ARITHMETIC[type(changed.op)]()
        yield changed
    elif isinstance(changed, ast.BoolOp):
        changed.op = ast.Or() if isinstance(changed.op, ast.And) else ast.And()
        yield changed
    elif isinstance(changed, ast.UnaryOp) and isinstance(changed.op, (ast.Not, ast.USub)):
        yield changed.operand  # -1 -> 1, not x -> x
    elif isinstance(changed, ast.Call) and _name(changed.func) in _NAMES:
        function = changed.func
        if isinstance(function, ast.Name):
            function.id = _NAMES[function.id]
        elif isinstance(function, ast.Attribute):
            function.attr = _NAMES[function.attr]
        yield changed
    elif isinstance(changed, ast.IfExp):
        changed.body, changed.orelse = changed.orelse, changed.body
        yield changed
    elif isinstance(changed, ast.Constant):
        if isinstance(changed.value, bool):
            yield ast.Constant(not changed.value)
        elif isinstance(changed.value, int):
            yield ast.Constant(changed.value + 1)
        elif isinstance(changed.value, float):
            yield ast.Constant(changed.value * 2 + 0.25)


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def survives(mutant: Mutant, folder: Path) -> bool:
    """Whether the module's tests pass on the mutant, in a copy of the repository that is nobody else's."""
    path = folder / mutant.module
    source = path.read_bytes()
    path.write_bytes(mutant.mutated(source))
    try:
        return _tests_pass(TESTS[mutant.module], folder)
    finally:
        path.write_bytes(source)


def _tests_pass(tests: list[str], folder: Path) -> bool:
    """Runs tests in a fork of this process, which has torch imported already, but nothing of `mt`."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        sys.path[:0] = [str(folder)]
        sys.dont_write_bytecode = True
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        import pytest

        code = 1
        try:
            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> int:
    """Runs a sample of all mutants and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150, help="mutants drawn from all (default: 150)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="modules whose path begins so")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    chosen = {module: (ROOT / module).read_bytes() for module in TESTS if module.startswith(options.only)}
    found = [mutant for module, source in chosen.items() for mutant in mutants(module, source)]
    drawn = sorted(random.Random(options.seed).sample(found, min(options.count, len(found))))
    os.environ["OMP_NUM_THREADS"] = "1"
    import hypothesis  # noqa: F401  what every fork would import again
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.jobs) as pool:
        folders: Queue[Path] = Queue()
        for number in range(options.jobs):
            folder = Path(work, str(number))
            for name in COPIED:
                copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                folder.mkdir(exist_ok=True)
                copied(ROOT / name, folder / name)  # type: ignore[operator]
            folders.put(folder)
        for tests in {tuple(TESTS[module]) for module in chosen}:
            if not _tests_pass(list(tests), Path(work, "0")):
                print(f"the tests fail without a mutant: {' '.join(tests)}")
                return 1

        def examine(mutant: Mutant) -> bool:
            folder = folders.get()
            try:
                alive = survives(mutant, folder)
            finally:
                folders.put(folder)
            if alive:
                why = SURVIVORS.get(mutant.key, "NO REASON GIVEN")
                print(f"survives: {mutant.module}:{mutant.line}: {mutant.before} -> {mutant.after}: {why}", flush=True)
            return alive

        alive = list(pool.map(examine, drawn))
    print(f"\n{'module':32}  mutants  killed")
    for module in chosen:
        fates = [fate for mutant, fate in zip(drawn, alive) if mutant.module == module]
        print(f"{module:32}  {len(fates):7}  {fates.count(False):6}")
    killed = alive.count(False)
    print(f"{'all':32}  {len(alive):7}  {killed:6}  {killed / len(alive):.1%} of {len(found)} possible ones drawn")
    explained = all(mutant.key in SURVIVORS for mutant, fate in zip(drawn, alive) if fate)
    return 0 if killed >= LOWEST_SHARE * len(alive) and explained else 1


if __name__ == "__main__":
    sys.exit(main())
