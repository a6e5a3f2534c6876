"""Kinds of faults, each struck at the commands that it can hit, and the verdict on what came of it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import server
from server import Done, Fault
from world import SUBJECTS, Subject, World, content, inputs, results, timeless

VERDICTS = ("survived", "refused", "silent", "lost", "other")


class Outcome(NamedTuple):
    """What came of a fault: one of VERDICTS, and what was done and seen."""

    verdict: str
    story: str


Strike = Callable[[World, Random, int], Outcome]


class Cell(NamedTuple):
    """A kind of fault at a command; `most`: how many different ones there are, 0: no end of them."""

    kind: str
    command: str
    strike: Strike
    most: int = 0


def refused(done: Done) -> bool:
    """Whether a command ended as for a user's error: exit code 2 and one line that says so, the last one."""
    lines = done.error.strip().split("\n")
    strange = ("Traceback", "Exception", "  File", "Error:")
    one = sum(line.startswith("error:") for line in lines) == 1 and lines[-1].startswith("error:")
    return done.code == 2 and one and not any(word in done.error for word in strange)


def _ended(done: Done) -> str:
    return f"exit code {done.code}: {' / '.join(done.error.strip().splitlines()[-3:])[-500:]}"


def _difference(found: dict[str, bytes], expected: dict[str, bytes]) -> str:
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    return "differs: " + ", ".join(names[:4])


# Faults at the n-th operation on a file


def operation(world: World, random: Random, subject: Subject, kind: str) -> Outcome:
    """A kill, an error or a short write at a random operation of a command, which is then given again."""
    expected, counts = world.undisturbed(subject)
    number = random.randint(1, counts[kind])
    with world.box(subject) as box:
        before, given = content(box, subject.whole), inputs(subject, box)
        done = server.run(box, subject.arguments.split(), Fault(kind, number))
        story = f"operation {number} of {counts[kind]}; {_ended(done)}"
        if done.code == 0:
            found = results(subject, box, done)
            return Outcome("survived" if found == expected else "silent", f"{story}; {_difference(found, expected)}")
        killed = kind.startswith("kill") and done.code == -9
        if not killed and not refused(done):
            return Outcome("other", story)
        whole = content(box, subject.whole)
        new = {name: data for name, data in expected.items() if name.startswith(subject.whole or "-")}
        if whole and whole not in (before, new):
            return Outcome("silent", f"{story}; half new: {_difference(whole, new)}")
        if trouble := _used_now(world, subject, box, expected):
            return Outcome("silent", f"{story}; {trouble}")
        again = server.run(box, subject.arguments.split())
        found = results(subject, box, again)
        if again.code != 0 or found != expected or not given.items() <= inputs(subject, box).items():
            return Outcome("lost", f"{story}; again: {_ended(again)}; {_difference(found, expected)}")
        return Outcome("survived" if killed else "refused", story)


def _used_now(world: World, subject: Subject, box: Path, expected: dict[str, bytes]) -> str:
    """What is wrong when somebody uses what an ended command has left behind: an evaluation, or a run."""
    uses = {"evaluate": "tools/report.py evaluation", "train": "translate.py run --input text/test.de --threads 1"}
    use = uses.get(subject.name.partition(",")[0])
    if use is None:
        return ""
    copy = box.with_name("used")
    shutil.copytree(box, copy)
    done = server.run(copy, use.split())
    if done.code != 0 and not refused(done):
        return f"{use}: {_ended(done)}"
    if done.code == 0 and subject.name == "evaluate":
        files = copy / "evaluation/report.html", world.folder / "other/evaluation/report.html"
        page, old = (timeless(file.name, file.read_bytes()) for file in files)
        if page not in (old, expected["evaluation/report.html"]):
            return f"{use}: accepts what is partly old and partly new"
    return ""


# Damage of a file that is read


def damage(world: World, random: Random, number: int, subject: Subject, kind: str) -> Outcome:
    """One file damaged; where the command refuses it, the file is restored and the command given again."""
    expected, _ = world.undisturbed(subject)
    with world.box(subject) as box:
        names = [name for name in damageable(subject, box) if _DAMAGE[kind].takes(name)]
        Random(f"{world.seed} {kind} {subject.name}").shuffle(names)  # each once before any is struck twice
        name = names[number % len(names)]
        path = box / name
        good = path.read_bytes()
        bad = _DAMAGE[kind].spoil(good, random, name, world)
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
        done = server.run(box, subject.arguments.split())
        story = f"{name}; {_ended(done)}"
        expected = {each: data for each, data in expected.items() if each != name}
        found = {each: data for each, data in results(subject, box, done).items() if each != name}
        if done.code == 0:
            return Outcome("survived" if found == expected else "silent", f"{story}; {_difference(found, expected)}")
        if not refused(done):
            return Outcome("other", story)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good)
        again = server.run(box, subject.arguments.split())
        found = {each: data for each, data in results(subject, box, again).items() if each != name}
        if again.code != 0 or found != expected:
            return Outcome("lost", f"{story}; restored: {_ended(again)}; {_difference(found, expected)}")
        return Outcome("refused", story)


def damageable(subject: Subject, box: Path) -> list[str]:
    """Names of the files that a subject reads and that may be damaged."""
    paths = {path for pattern in subject.damaged for path in box.glob(pattern)}
    return sorted(str(path.relative_to(box)) for path in paths if path.is_file())


def _flip(data: bytes, position: int, bit: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :] if data else data


def _exponent(data: bytes, random: Random, *_: Any) -> bytes:
    """One of the upper bits of a 32-bit number flipped: the weight becomes huge, tiny or infinite."""
    start = 8 + int.from_bytes(data[:8], "little") if data[8:9] == b"{" else len(data) // 2
    number = random.randrange((len(data) - start) // 4)
    return _flip(data, start + 4 * number + 3, random.randrange(7))


def _other_values(data: bytes, random: Random, name: str, _: World) -> bytes:
    """A value of another type or out of range in JSON, without its checksum; another name in a pointer."""
    if not name.endswith((".json", ".jsonl")):
        return random.choice([b"", b"\n", b"..\n", b"../..\n", b"\xff\xfe\n", b"step_99999999\n", b"/etc\n", b"a\0b\n"])
    lines = data.decode().splitlines() if name.endswith(".jsonl") else [data.decode()]
    place = random.randrange(len(lines))
    value = json.loads(lines[place])
    if isinstance(value, dict):
        value.pop("checksum", None)
    holders = list(_holders(value))
    holder, key = random.choice(holders)
    old = holder[key]
    odd: list[Any] = [math.nan, math.inf, {"a": 1}, [[5]]]
    if isinstance(old, (int, float)):
        odd += ["seven", []] if isinstance(old, bool) else ["seven", None, 10**30, -(10**30)]
        odd += [-5, 7.5] if key in _SHARES else [-5, 10**9] if key in _COUNTS else []
    else:
        odd += [7] if isinstance(old, str) else [7, "seven"]
    holder[key] = random.choice(odd)
    lines[place] = json.dumps(value)
    return "\n".join(lines).encode() + b"\n"


_SHARES = {"confidence", "accuracy", "temperature", "low", "high", "share"}
_COUNTS = {"step", "epoch", "batch", "line", "tokens", "lines", "count", "bytes", "version", "format_version"}


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _holders(value[key])


def _of_another(data: bytes, random: Random, name: str, world: World) -> bytes:
    """The file of the same name from the other world: another model of the same shapes, another run; or of the
    checkpoint before."""
    if "step_00000004" in name and random.random() < 0.5:
        return (world.folder / "half" / name.partition("/")[2].replace("04/", "02/")).read_bytes()
    name = re.sub(r"^run/(?=.*00000004)", "half/", name).replace("second/", "evaluation/")
    pattern = re.sub(r"(?<=/)[0-9a-f]{16,}(?=/)", "*", name)
    return next(iter((world.folder / "other").glob(pattern))).read_bytes()


_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 12345\n"
)


class _Damage(NamedTuple):
    spoil: Callable[[bytes, Random, str, World], bytes | None]
    takes: Callable[[str], bool] = lambda name: not name.endswith(".partial")  # written by the user's own command


_DAMAGE = {
    "bit flip": _Damage(lambda data, random, *_: _flip(data, random.randrange(max(1, len(data))), random.randrange(8))),
    "exponent bit": _Damage(_exponent, lambda name: name.endswith((".safetensors", "model.bin"))),
    "truncation": _Damage(lambda data, random, *_: data[: random.randrange(max(1, len(data)))], lambda name: True),
    "emptied": _Damage(lambda *_: b"", lambda name: True),
    "removed": _Damage(lambda *_: None, lambda name: not name.endswith((".partial", "calibration.json"))),  # a choice
    "zeroed block": _Damage(
        lambda data, random, *_: (
            data[: (at := random.randrange(max(1, len(data))))] + bytes(min(512, len(data) - at)) + data[at + 512 :]
        )
    ),
    "LFS pointer": _Damage(
        lambda *_: _POINTER, lambda name: name.endswith((".safetensors", ".model", ".bin", ".arrow"))
    ),
    "values": _Damage(
        _other_values, lambda name: name.endswith((".json", ".jsonl", "/last", "/best")) and "log.jsonl" not in name
    ),
    "swap": _Damage(_of_another, lambda name: not name.endswith((".partial", "partial.json", "/last", "/best"))),
}


# Two at once


def two_alike(world: World, random: Random, subject: Subject) -> Outcome:
    """The same command twice at the same time: each is done or refused, and the result is the undisturbed one."""
    expected, _ = world.undisturbed(subject)
    with world.box(subject) as box:
        commands = [server.Running(box, subject.arguments.split())]
        pause = random.random() ** 2
        time.sleep(pause)
        commands.append(server.Running(box, subject.arguments.split()))
        ends = [command.finish() for command in commands]
        story = f"{pause:.3f} s apart; " + " | ".join(map(_ended, ends))
        if not all(done.code == 0 or refused(done) for done in ends):
            return Outcome("other", story)
        good = [done for done in ends if done.code == 0]
        found = results(subject, box, good[0]) if good else {}
        if good and found != expected:
            return Outcome("silent", f"{story}; {_difference(found, expected)}")
        again = server.run(box, subject.arguments.split())
        if not good and (again.code or results(subject, box, again) != expected):
            return Outcome("lost", f"{story}; again: {_ended(again)}")
        return Outcome("survived" if len(good) == 2 else "refused", story)


def two_pipes(world: World, random: Random, _: int) -> Outcome:
    """Two translations of different pipes into one file, the first one still waiting for its input."""
    subject = SUBJECTS["translate"]
    command = ["translate.py", "model", "--output", "out.txt", "--threads", "1"]
    with world.box(subject) as box:
        lines = (box / "text/test.de").read_bytes().splitlines(keepends=True)
        texts = [b"".join(random.sample(lines, 12)) for _ in range(2)]
        alone = []
        for text in texts:
            (box / "in").write_bytes(text)
            server.run(box, ["translate.py", "model", "--input", "in", "--output", "alone", "--threads", "1"])
            alone.append((box / "alone").read_bytes())
        pipes = [os.pipe() for _ in texts]
        begun, commands = [random.randrange(len(text)) for text in texts], []
        for (reading, writing), text, some in zip(pipes, texts, begun):
            os.write(writing, text[:some])
            commands.append(server.Running(box, command, stdin=reading))
            time.sleep(0.5)
        story, verdict = "", "survived"
        for number in random.sample(range(2), 2):
            os.write(pipes[number][1], texts[number][begun[number] :])
            os.close(pipes[number][1])
            done = commands[number].finish()
            story += f"number {number + 1} ends: {_ended(done)}; "
            if done.code != 0:
                verdict = verdict if verdict == "silent" else "refused" if refused(done) else "other"
            elif not (box / "out.txt").exists() or (box / "out.txt").read_bytes() != alone[number]:
                verdict, story = "silent", story + "and has not its own lines; "
        return Outcome(verdict, story)


# Links and devices in place of files

# name: command, how the place is made, argument or name, where the result must be (none: it must be refused)
_PLACES: dict[str, tuple[str, str, str, str | None]] = {
    "link to a file": ("translate", "echo old > r.jsonl; ln -s r.jsonl LINK", "LINK", "r.jsonl"),
    "link to nothing": ("translate", "ln -s r.jsonl LINK", "LINK", "r.jsonl"),
    "link to a link": ("translate", "mkdir d; echo > d/r.jsonl; ln -s d/r.jsonl a; ln -s a LINK", "LINK", "d/r.jsonl"),
    "link from a folder": ("translate", "mkdir d; echo > r.jsonl; ln -s ../r.jsonl d/LINK", "d/LINK", "r.jsonl"),
    "link in a circle": ("translate", "ln -s LINK two; ln -s two LINK", "LINK", None),
    "link to a folder": ("translate", "mkdir d; ln -s d LINK", "LINK", None),
    "/dev/stdout": ("translate", ":", "/dev/stdout", "(standard output)"),
    "link to /dev/stdout": ("translate", "ln -s /dev/stdout LINK", "LINK", "(standard output)"),
    "/dev/fd/1": ("translate", ":", "/dev/fd/1", "(standard output)"),
    "/proc/self/fd/1": ("translate", ":", "/proc/self/fd/1", "(standard output)"),
    "/dev/full": ("translate", ":", "/dev/full", None),
    "link to /dev/full": ("translate", "ln -s /dev/full LINK", "LINK", None),
    "named pipe": ("translate", "mkfifo PIPE", "PIPE", "(pipe)"),
    "the input": ("translate", ":", "text/test.de", None),
    "the input by another way": ("translate", ":", "text/../model/../text/test.de", None),
    "link to the input": ("translate", "ln -s text/test.de LINK", "LINK", None),
    "hard link to the input": ("translate", "ln text/test.de LINK", "LINK", None),
    "weights of the model": ("translate", ":", "model/model.safetensors", None),
    "config of the model": ("translate", ":", "model/config.yaml", None),
    "below a file": ("translate", "echo old > f", "f/out", None),
    "flagged into the input": ("translate", ":", "out.jsonl --flag_below 0.9 --flagged text/test.de", None),
    "flagged into the output": ("translate", ":", "out.jsonl --flag_below 0.9 --flagged out.jsonl", None),
    "page over results": ("compare", ":", "evaluation/results.json", None),
    "page through a link": ("compare", "echo old > r.jsonl; ln -s r.jsonl LINK", "LINK", "r.jsonl"),
    "page to /dev/full": ("compare", ":", "/dev/full", None),
    "evaluation over the input": ("evaluate", ":", "text/test.de", None),
    "evaluation through a link": ("evaluate", "mkdir d; ln -s d LINK", "LINK", "d"),
    "export into the model": ("export, CTranslate2", ":", "model", None),
    "export through a link to nothing": ("export, CTranslate2", "ln -s real LINK", "LINK", "real"),
    "run through a link": ("train", "mkdir real; ln -s real run", "", ""),
    "cache through a link": ("train", "mv cache real; ln -s real cache", "", ""),
    "model through a link": ("calibrate", "mv model real; ln -s real model", "", ""),
    "calibration through a link": (
        "calibrate",
        "mv model/calibration.json real; ln -s ../real model/calibration.json",
        "",
        "",
    ),
}


def place(world: World, random: Random, number: int, command: str) -> Outcome:
    """An output that is no plain file of its own: the result is behind it, or it is refused; nothing else changes."""
    name, (_, make, argument, target) = [each for each in _PLACES.items() if each[1][0] == command][number]
    subject = SUBJECTS[command]
    expected, _ = world.undisturbed(subject)
    arguments = subject.arguments.split()
    with world.box(subject) as box:
        assert os.system(f"cd {box} && ({make})") == 0
        if argument:
            at = arguments.index("--output") + 1
            arguments[at : at + 1] = argument.split()
        links = {path: os.readlink(path) for path in box.rglob("*") if path.is_symlink()}
        files = [path for path in box.rglob("*") if path.is_file() and not path.is_symlink()]
        given = {path: path.read_bytes() for path in files if not _of_the_result(path, box, subject, target)}
        heard: list[bytes] = []
        reader = threading.Thread(target=lambda: heard.append((box / "PIPE").read_bytes()), daemon=True)
        if target == "(pipe)":
            reader.start()
        done = server.run(box, arguments)
        story = f"{name}: {_ended(done)}"
        if any(not path.is_symlink() or os.readlink(path) != link for path, link in links.items()):
            return Outcome("lost", f"{story}; a link was replaced")
        if changed := [path.name for path, data in given.items() if not path.exists() or path.read_bytes() != data]:
            return Outcome("lost", f"{story}; changed: {changed}")
        if done.code != 0:
            return Outcome("refused" if refused(done) else "other", story)
        if target is None:
            return Outcome("silent", f"{story}; this cannot be done")
        if target == "":
            found, wanted = results(subject, box, done), expected
        else:
            reader.join(5) if target == "(pipe)" else None
            root = subject.results[0]
            wanted = {name.removeprefix(root): data for name, data in expected.items()}
            if target[0] == "(":
                found = {"": timeless(root, done.out if target != "(pipe)" else b"".join(heard))}
            else:
                found = {name.removeprefix(target): data for name, data in content(box, (target,)).items()}
        return Outcome("survived" if found == wanted else "silent", f"{story}; {_difference(found, wanted)}")


def _of_the_result(path: Path, box: Path, subject: Subject, target: str | None) -> bool:
    """Whether a file is changed by right."""
    name = str(path.relative_to(box))
    real = str(path.resolve().relative_to(box.resolve()))
    return target is not None and (
        name.startswith(subject.results) or real.startswith((target or "r", "r.jsonl", "real"))
    )


# The table


def cells(world: World, writes: bool) -> list[Cell]:
    """All pairs of a kind and a command that it can hit; `writes`: whether writes can be made to fail."""
    found = []
    no_writes = {"score", "prepare, cached"}
    for kind in server.OPERATION_KINDS:
        if not writes and ("write" in kind or kind == "full disk"):
            continue
        for subject in SUBJECTS.values():
            if subject.name not in no_writes or kind in ("EIO", "ESTALE"):
                found.append(Cell(kind, subject.name, _operation_of(subject, kind)))
    for subject in SUBJECTS.values():
        with world.box(subject) as box:
            names = damageable(subject, box)
        for kind, damaging in _DAMAGE.items():
            if any(map(damaging.takes, names)):
                found.append(Cell(kind, subject.name, _damage_of(subject, kind)))
    for name in (
        "train",
        "train, resumed",
        "prepare",
        "translate",
        "translate, going on",
        "translate, CTranslate2",
        "evaluate",
        "calibrate",
        "report",
        "export, CTranslate2",
        "export, Marian",
    ):
        found.append(Cell("two at once", name, _two_of(SUBJECTS[name])))
    found.append(Cell("two at once", "translate, pipes", two_pipes))
    for command in dict.fromkeys(each[0] for each in _PLACES.values()):
        most = sum(each[0] == command for each in _PLACES.values())
        found.append(Cell("links and devices", command, _place_of(command), most))
    return found


def _operation_of(subject: Subject, kind: str) -> Strike:
    return lambda world, random, number: operation(world, random, subject, kind)


def _damage_of(subject: Subject, kind: str) -> Strike:
    return lambda world, random, number: damage(world, random, number, subject, kind)


def _two_of(subject: Subject) -> Strike:
    return lambda world, random, number: two_alike(world, random, subject)


def _place_of(command: str) -> Strike:
    return lambda world, random, number: place(world, random, number, command)
