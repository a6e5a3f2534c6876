"""Mutation testing: small faults put into losses, search, calibration and batching; do the tests notice?

    python tests/mutants/run.py [--count 150] [--seed 1] [--only mt/losses] [--jobs 2] [--listed]

Each mutant is one change of one expression in one module: another comparison, sign, border, constant or order. The
module's own unit tests run on it, in a copy of the repository, until the first one fails. Exit code 1 when fewer than
95 % are killed.

What alters no result is left alone, so that the share means something: values of the variables in `SPARED`, such as
sizes of portions, the arguments in `_SPARED_ARGUMENTS`, texts, annotations, messages of errors, and the mutants that
survivors.py lists one by one, each with its reason. --listed runs these, to see whether all of them survive.
Hypothesis draws the same examples each time: a seed gives the same table each time.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from queue import Queue
from typing import Any, NamedTuple

from survivors import SURVIVORS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("mt", "data", "configs", "tools", "tests", "benchmarks", "pyproject.toml", "train.py", "translate.py")
LOWEST_SHARE = 0.95
_WIDTH = 28


def _tests(folder: str, *names: str) -> list[str]:
    return [f"tests/unit/{folder}/test_{name}.py" for name in names]


_ORACLE = ["tests/unit/test_oracle.py"]
TESTS = {
    "mt/losses/encouraging.py": _tests("losses", "loss_gradients", "reference_encouraging", "build_loss", "projection"),
    "mt/losses/smoothing.py": _tests("losses", "loss_gradients", "build_loss", "projection"),
    "mt/losses/targets.py": _tests("losses", "loss_gradients", "build_loss", "links"),
    "mt/losses/projection.py": _tests("losses", "projection"),
    "mt/losses/relatives.py": _tests("losses", "relatives", "projection"),
    "mt/decoding/beam_search.py": _tests("decoding", "plain_search", "beam_search", "search_methods"),
    "mt/metrics/bins.py": _tests("metrics", "bins", "measures") + _tests("evaluation", "tokens") + _ORACLE,
    "mt/metrics/labels.py": _tests("metrics", "words", "token_labels"),
    "mt/metrics/maps.py": _tests("metrics", "maps"),
    "mt/metrics/noise.py": _tests("metrics", "measures", "significance") + _ORACLE,
    "mt/metrics/ranks.py": _tests("metrics", "ranks", "bins"),
    "mt/evaluation/tokens.py": _tests("evaluation", "tokens", "alternatives"),
    "mt/corpus/batching.py": _tests("corpus", "batching"),
}
"""module: the tests that should notice, the quickest and most telling first"""

SPARED = {
    "mt/losses/projection.py": {"_BLOCK_BYTES", "_SLICE_BYTES", "passes", "token_bytes", "count", "step", "inner_step"},
    "mt/decoding/beam_search.py": {"_BLOCK", "_STEPS_BETWEEN_CHECKS", "missing"},
    "mt/metrics/labels.py": {"_INFINITE", "rank", "row", "choices", "new", "choice"},
    "mt/metrics/maps.py": {"_CACHED", "rows", "inside"},
    "mt/corpus/batching.py": {"cost", "came_from"},
}
"""module: variables whose exact value alters no result: sizes of portions and of tables, values at the start that
anything beats, tolerances of rounding"""

_SPARED_ARGUMENTS = {"strict", "stable", "sorted"}
"""strict: an assertion; stable, sorted: on a CPU torch's order is the same"""

_OPERATORS: dict[Any, Any] = {
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
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
_NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin"}


class Mutant(NamedTuple):
    """One change of one module."""

    module: str
    line: int
    start: int
    """first byte of what is replaced"""
    end: int
    after: str
    changed: str
    """the changed lines: what names it in `SURVIVORS`, as line numbers change too often"""

    @property
    def reason(self) -> str | None:
        """Why it survives; None: it should not."""
        reasons = SURVIVORS.get(self.module, {})
        return next((reason for reason, lines in reasons.items() if self.changed in lines), None)

    def mutated(self, source: bytes) -> bytes:
        """The module's source with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants(module: str) -> Iterator[Mutant]:
    """All mutants of a module."""
    source = (ROOT / module).read_bytes()
    starts = [0]
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    for node in _code(ast.parse(source), SPARED.get(module, set())):
        assert node.end_lineno is not None and node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        for changed in _changes(node):
            after = ast.unparse(changed)
            after = f"({after})" if isinstance(changed, ast.expr) else after
            lines = source[starts[node.lineno - 1] : start].decode() + after
            lines += source[end : starts[node.end_lineno] - 1].decode()
            yield Mutant(module, node.lineno, start, end, after, " ".join(lines.split()))


def _code(node: ast.AST, spared: set[str]) -> Iterator[ast.expr | ast.stmt]:
    """The expressions and statements that decide what the code does."""
    if isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
        return
    targets = node.targets if isinstance(node, ast.Assign) else [node]
    names = {each.id for target in targets for each in getattr(target, "elts", [target]) if isinstance(each, ast.Name)}
    if isinstance(node, ast.Assign) and names and names <= spared:
        return
    if isinstance(node, ast.keyword) and node.arg in _SPARED_ARGUMENTS:
        return
    if isinstance(node, (ast.expr, ast.stmt)):
        yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _code(child, spared)


def _changes(node: ast.expr | ast.stmt) -> Iterator[ast.expr | ast.stmt]:
    """The node with one thing changed."""
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare):
        for place, operator in enumerate(changed.ops):
            changed.ops[place] = _OPERATORS[type(operator)]()
            yield changed
            changed.ops[place] = operator
    elif isinstance(changed, (ast.BinOp, ast.BoolOp, ast.AugAssign)) and type(changed.op) in _OPERATORS:
        changed.op = _OPERATORS[type(changed.op)]()
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
    elif isinstance(changed, (ast.Continue, ast.Break)):
        yield ast.Break() if isinstance(changed, ast.Continue) else ast.Continue()
    elif isinstance(changed, ast.Constant):
        if isinstance(changed.value, bool):
            yield ast.Constant(not changed.value)
        elif isinstance(changed.value, int):
            yield ast.Constant(changed.value + 1)
        elif isinstance(changed.value, float):
            yield ast.Constant(changed.value * 2 + 0.25)


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


class _Runs:
    """Runs of tests in copies of the repository, each used by one run at a time."""

    def __init__(self, work: Path, copies: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"
        for name in ("hypothesis", "msgspec", "numpy", "pytest", "sacrebleu", "sentencepiece", "torch"):
            importlib.import_module(name)  # what every fork would import again
        self.limits: dict[str, float] = {}
        self.folders: Queue[Path] = Queue()
        for number in range(copies):
            folder = work / str(number)
            folder.mkdir()
            for name in COPIED:
                copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
                copied(ROOT / name, folder / name)
            self.folders.put(folder)

    def unchanged_pass(self, module: str) -> bool:
        """Whether a module's tests pass; from now on a run that takes much longer than this one is one that fails."""
        folder, start = self.folders.get(), time.monotonic()
        passed = _tests_pass(TESTS[module], folder, 1000, compiled=True)
        self.limits[module] = 20 + 4 * (time.monotonic() - start)
        self.folders.put(folder)
        return passed

    def survives(self, mutant: Mutant) -> bool:
        """Whether the module's tests pass on the mutant."""
        folder = self.folders.get()
        path = folder / mutant.module
        source, times = path.read_bytes(), path.stat()
        path.write_bytes(mutant.mutated(source))
        alive = _tests_pass(TESTS[mutant.module], folder, self.limits[mutant.module])
        path.write_bytes(source)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # for what is compiled
        self.folders.put(folder)
        return alive


def _tests_pass(tests: list[str], folder: Path, limit: float, *, compiled: bool = False) -> bool:
    """Runs tests in a fork of this process, which has torch imported already, but nothing of `mt`; a mutant that loops
    for ever is noticed after `limit` seconds. compiled: the next run finds its modules compiled."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(folder)
        sys.path[:0] = [str(folder)]
        sys.dont_write_bytecode = not compiled
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        import hypothesis
        import pytest

        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]  # a failure need not be the smallest one
        hypothesis.settings.register_profile("mutants", deadline=None, database=None, derandomize=True, phases=phases)
        options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "--hypothesis-profile=mutants", "-m", "not slow"]
        code = 1
        try:
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.02)
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
    parser.add_argument("--listed", action="store_true", help="only what SURVIVORS lists: does all of it survive?")
    options = parser.parse_args()
    found = [mutant for module in TESTS if module.startswith(options.only) for mutant in mutants(module)]
    lines = {(module, line) for module, reasons in SURVIVORS.items() for lines in reasons.values() for line in lines}
    for module, line in sorted(lines - {(mutant.module, mutant.changed) for mutant in found}):
        if module.startswith(options.only):
            print(f"stands in SURVIVORS and is no mutant: {module}: {line}")
    shuffled = random.Random(options.seed).sample(found, len(found))
    listed, decisive = ([mutant for mutant in shuffled if bool(mutant.reason) is known] for known in (True, False))
    drawn = sorted(listed if options.listed else decisive[: options.count])
    print(f"{len(drawn)} of {len(found)} mutants, seed {options.seed}", end="; ")
    print(f"{len(listed)} alter no result: survivors.py lists them", flush=True)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as work, ThreadPoolExecutor(options.jobs) as pool:
        runs = _Runs(Path(work), options.jobs)
        modules = sorted({mutant.module for mutant in drawn})
        for module, passed in zip(modules, pool.map(runs.unchanged_pass, modules)):
            if not passed:
                print(f"the tests fail without a mutant: {' '.join(TESTS[module])}")
                return 1
        print(f"{'module':{_WIDTH}}  mutants  killed", flush=True)
        killed = 0
        fates = zip(drawn, pool.map(runs.survives, drawn))
        for module, of_module in groupby(fates, key=lambda fate: fate[0].module):
            counts = Counter(map(_told, of_module))
            killed += counts[True]
            print(f"{module:{_WIDTH}}  {counts.total():7}  {counts[True]:6}", flush=True)
    share = killed / max(1, len(drawn))
    print(f"{'all':{_WIDTH}}  {len(drawn):7}  {killed:6}  {share:.1%}, {time.monotonic() - begin:.0f} s")
    return int(killed > 0 if options.listed else share < LOWEST_SHARE)


def _told(fate: tuple[Mutant, bool]) -> bool:
    """Whether a mutant was killed; one that survives, or should, is told of."""
    mutant, lives = fate
    if lives or mutant.reason:
        print(f"  {'survives' if lives else 'is killed'}: line {mutant.line}: {mutant.changed}")
        print(f"    {mutant.reason or 'no reason is given'}", flush=True)
    return not lives


if __name__ == "__main__":
    sys.exit(main())
