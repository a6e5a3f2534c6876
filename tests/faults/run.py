"""Injects faults into the commands and prints what came of them: `python tests/faults/run.py --count 500`.

Every fault is made from --seed, its kind, its command and its number alone, so that it can be struck again by itself:
what went wrong is printed with the options that repeat it. The exit code is 1 where a fault passed in silence, lost
something or ended in anything but one line.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).absolute().parent))
import server


def main() -> int:
    """Strikes, counts and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of all injections (default: 1)")
    parser.add_argument("--count", type=int, default=500, help="how many injections (default: 500)")
    parser.add_argument("--only", default="", help="kinds, or KIND/COMMAND, that begin so")
    parser.add_argument("--commands", default="", help="only these, as in translate,score (default: all)")
    parser.add_argument("--number", type=int, help="with the whole KIND/COMMAND: this one alone")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="how many at a time")
    parser.add_argument("--json", type=Path, help="a file for all outcomes, one a line")
    given = parser.parse_args()
    how = server.prepare_process(sys.argv)
    import cases
    import world

    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder is removed
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and shutil.disk_usage(memory).free > 1 << 30
    with tempfile.TemporaryDirectory(prefix="faults-", dir=memory if in_memory else None) as folder:
        wanted = given.commands.split(",") if given.commands else []
        fixtures = world.World(Path(folder), given.seed, wanted)
        known = cases.cells(fixtures, bool(os.environ["FAULTS_LIBRARY"]))
        known = [cell for cell in known if not wanted or cell.command.partition(",")[0] in wanted]
        names = [f"{cell.kind}/{cell.command}" for cell in known]
        alone = given.number is not None
        known = [
            cell
            for cell, name in zip(known, names)
            if name == given.only or (not alone and name.startswith(given.only))
        ]
        plan = chosen(known, given.seed, given.count, given.number)
        for name in dict.fromkeys(cell.command for cell, _ in plan):
            if name in world.SUBJECTS:
                fixtures.undisturbed(world.SUBJECTS[name])
        outcomes = struck(plan, fixtures, given.seed, given.processes)
    if given.json:
        rows = [[cell.kind, cell.command, number, *outcome] for (cell, number), outcome in zip(plan, outcomes)]
        given.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = counted([(cell.kind, cell.command, each.verdict) for (cell, _), each in zip(plan, outcomes)])
    print("\n".join(table))
    seconds = time.monotonic() - started
    print(f"\nfaults by {how}; {given.processes} at a time, {seconds:.0f} s; {platform.system()} {platform.machine()}")
    return int(any(outcome.verdict not in cases.VERDICTS[:2] for outcome in outcomes))


def chosen(cells: list, seed: int, count: int, number: int | None) -> list:
    """Pairs of a cell and a number within it: cell after cell in a random order, then again with the next number; a
    cell of which there is an end is through after four rounds."""
    if number is not None:
        return [(cell, number) for cell in cells]
    order = sorted(cells, key=lambda cell: Random(f"{seed} {cell.kind} {cell.command}").random())
    found, turn = [], 0
    while len(found) < count and order:
        for cell in order:
            each = -(-cell.most // 4) or 1
            numbers = range(turn * each, (turn + 1) * each)
            found += [(cell, number) for number in numbers if not cell.most or number < cell.most]
        turn += 1
        order = [cell for cell in order if not cell.most or turn * -(-cell.most // 4) < cell.most]
    return found[:count]


def struck(plan: list, fixtures: object, seed: int, processes: int) -> list:
    """The outcomes, in order, each found in a fork of this process: a fault there cannot hurt the next one."""
    from cases import VERDICTS, Outcome

    from mt.progress import progress_bar

    outcomes, running = [Outcome("other", "the harness itself failed")] * len(plan), {}
    bar = progress_bar(len(plan), "faults", "fault")
    for index in [*range(len(plan)), *[None] * processes]:
        while running and (index is None or len(running) == processes):
            pid, _ = os.wait()
            place, file = running.pop(pid)
            file.seek(0)
            if text := file.read():
                outcomes[place] = Outcome(*json.loads(text))
            file.close()
            bar.update(1)
            if outcomes[place].verdict not in VERDICTS[:2]:
                cell, number = plan[place]
                print(f"{outcomes[place].verdict}: --seed {seed} --only '{cell.kind}/{cell.command}' --number {number}")
                print(f"    {outcomes[place].story}", flush=True)
        if index is None:
            break
        file = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed when the fork has ended
        cell, number = plan[index]
        pid = os.fork()
        if pid == 0:
            try:
                outcome = cell.strike(fixtures, Random(f"{seed} {cell.kind} {cell.command} {number}"), number)
            except Exception:
                outcome = Outcome("other", f"the harness itself failed: {traceback.format_exc()}")
            try:
                json.dump(outcome, file)
                file.flush()
            finally:
                os._exit(0)
        running[pid] = index, file
    return outcomes


def counted(verdicts: list[tuple[str, str, str]]) -> list[str]:
    """The table, a row for each kind and command, in Markdown."""
    from cases import VERDICTS

    rows: dict[tuple[str, str], dict[str, int]] = {}
    for kind, command, verdict in verdicts:
        for row in ((kind, command.partition(",")[0]), (kind, "all"), ("all", "all")):
            rows.setdefault(row, dict.fromkeys(VERDICTS, 0))[verdict] += 1
    heads = ["fault", "command", "injected", "survived", "refused in one line", *VERDICTS[2:]]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    order = sorted(rows, key=lambda row: (row[1] == "all", row[0] == "all", row))
    for kind, command in order:
        counts = rows[kind, command]
        lines.append("| " + " | ".join(map(str, [kind, command, sum(counts.values()), *counts.values()])) + " |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
