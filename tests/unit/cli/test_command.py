"""How errors end: one line and an exit code, and a traceback for faults of the program only."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mt.cli.commands import COMMANDS, main
from mt.cli.main import CommandParser, add_search, aligned, call_of, program_name, run
from mt.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def ended_by(error: BaseException) -> int:
    def main() -> int:
        raise error

    return run(main)


def test_the_exit_code_of_a_command_is_passed_on() -> None:
    assert run(lambda: 0) == 0


NO_MEMORY = "error: not enough memory; use smaller batches, a smaller model or beam, or a machine with more\n"
REMEDY = "check the place, its permissions and its disk or network drive, and give the same command again"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no such file a.de; check the name"), 2, "error: no such file a.de; check the name\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 2, NO_MEMORY),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/out.txt"),
            2,
            f"error: /x/out.txt: Permission denied; {REMEDY}\n",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/x/out.txt"),
            2,
            f"error: /x/out.txt: Read-only file system; {REMEDY}\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: No space left on device; free some\n"),
        (OSError(errno.EIO, "Input/output error", "/x/in.txt"), 2, f"error: /x/in.txt: Input/output error; {REMEDY}\n"),
        (
            OSError(errno.ETIMEDOUT, "Connection timed out", "/x/in.txt"),
            2,
            f"error: /x/in.txt: Connection timed out; {REMEDY}\n",
        ),
        (OSError("a library's own words"), 2, f"error: a library's own words; {REMEDY}\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/x/\x1b[31m\u202egpj.txt"),
            2,
            "error: /x/\\x1b[31m\\u202egpj.txt: No such file; check the name\n",
        ),
        (UserError("unknown key \x1b]0;title\x07"), 2, "error: unknown key \\x1b]0;title\\x07\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/x/in.txt"),
            2,
            "error: /x/in.txt: No such file; check the name\n",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), 2, NO_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), 2, NO_MEMORY),
    ],
)
def test_what_a_person_can_mend_is_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended_by(error) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("x"), AssertionError()])
def test_a_fault_of_the_program_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        ended_by(error)


def test_a_reader_that_went_away_ends_the_command_quietly(run_python: Any) -> None:
    code = "from mt.cli.main import run\nimport sys\nsys.exit(run(lambda: print('x\\n' * 100000) or 0))"
    read, write = os.pipe()
    os.close(read)
    done = run_python(code, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


CALL = "import sys\nfrom mt.cli.main import run\nfrom mt.progress import log_line, say\nsys.exit(run(lambda: {}))"
WORK = CALL.format("say('said') or log_line('told') or open('{}', 'w').write('done') and 0")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_closed_standard_streams_keep_no_work_from_being_done(closed: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK.format(tmp_path / "out")]
    done = subprocess.run(
        f"{shlex.join(command)} {closed}", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (tmp_path / "out").read_text() == "done"
    assert done.returncode == 0
    assert done.stdout in ("", "said\n") and done.stderr in ("", "told\n")  # nothing of the other streams


@pytest.mark.parametrize(
    ("work", "words"),
    [
        ("print('x') or 0", "No space left"),
        ("print('x' * 100000) or 0", "No space left"),
        ("say('x') or 0", "standard output: No space left"),
    ],
)
def test_a_full_disk_behind_standard_output_is_one_line(work: str, words: str, run_python: Any) -> None:
    with open("/dev/full", "w") as full:
        done = run_python(CALL.format(work), stdout=full)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_a_name_that_is_not_utf8_can_be_said(run_python: Any) -> None:
    done = run_python(CALL.format("say('eval\\udcff') or 0"), stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (0, "eval\\udcff\n")


def test_what_other_programs_read_needs_an_open_standard_output(run_python: Any) -> None:
    code = "from mt.files.output import standard_output\n" + CALL.format("standard_output() and 0")
    done = subprocess.run(
        f"{shlex.join([sys.executable, '-c', code])} >&-",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: standard output is closed; ")


@pytest.fixture
def run_python() -> Any:
    def call(code: str, **options: Any) -> Any:
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options)

    return call


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> CommandParser:
    monkeypatch.setattr(sys, "argv", ["/somewhere/tools/score.py"])
    parser = CommandParser(description="Scores.", example="MODEL --beam 5\nMODEL")
    parser.add_argument("model")
    parser.add_argument("--beam", type=int, default=5)
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--baem", "3"], "tools/score.py: unknown option --baem; did you mean --beam?"),
        (["--baem=3"], "tools/score.py: unknown option --baem; did you mean --beam?"),
        (["m", "--qq"], "tools/score.py: unknown option --qq; tools/score.py --help lists all"),
        (["m", "--bea", "3"], "tools/score.py: unknown option --bea; did you mean --beam?"),
        (
            ["m", "--beam", "x"],
            "tools/score.py: argument --beam: invalid int value: 'x'; tools/score.py --help tells more",
        ),
        ([], "tools/score.py: the following arguments are required: model; tools/score.py --help tells more"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(parser: CommandParser, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError) as raised:
        parser.parse_args(arguments)
    assert str(raised.value) == message


def test_values_after_two_dashes_are_not_taken_for_options(parser: CommandParser) -> None:
    assert parser.parse_args(["--beam", "3", "--", "--model"]).model == "--model"


def test_help_ends_with_examples_that_begin_as_the_user_did(
    parser: CommandParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        parser.parse_args(["--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.endswith(
        "example:\n  python tools/score.py MODEL --beam 5\n  python tools/score.py MODEL\n"
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        ("train.py", "train.py"),
        ("/a/tools/score.py", "tools/score.py"),
        ("/usr/bin/mt-train", "mt-train"),
        ("mt train", "mt train"),
    ],
)
def test_the_program_is_named_as_it_was_called(monkeypatch: pytest.MonkeyPatch, call: str, name: str) -> None:
    monkeypatch.setattr(sys, "argv", [call])
    assert program_name() == name


def test_every_script_and_installed_command_has_its_module() -> None:
    modules = {path.stem.replace("_", "-") for path in (ROOT / "mt" / "cli").glob("*.py")}
    modules -= {"--init--", "main", "commands"}
    assert modules | {"bench", "study"} == {*COMMANDS}  # benchmarks and study are no part of the package
    doors = [ROOT / "train.py", ROOT / "translate.py", *(ROOT / "tools").glob("*.py")]
    assert {path.stem.replace("_", "-") for path in doors} == {*COMMANDS} - {"demo", "configs"}
    for path in doors:
        assert f'main("{path.stem}")' in path.read_text()
    installed = re.findall(
        r'^(mt|mt-[\w-]+) = "mt\.cli\.commands:main"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert {name.removeprefix("mt-") for name in installed} <= {"mt", *COMMANDS}


@pytest.mark.parametrize(
    ("program", "own", "other"),
    [
        ("/a/train.py", "python train.py", "python tools/import_marian.py"),
        ("/a/tools/score.py", "python tools/score.py", "python tools/import_marian.py"),
        ("/usr/bin/mt-train", "mt-train", "mt-import-marian"),
        ("mt train", "mt train", "mt import-marian"),
        ("python -m mt train", "python -m mt train", "python -m mt import-marian"),
    ],
)
def test_other_commands_are_named_as_this_one_was(
    monkeypatch: pytest.MonkeyPatch, program: str, own: str, other: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert (call_of(), call_of("import-marian")) == (own, other)
    assert call_of("translate").startswith(own.rpartition(" ")[0].replace("tools/", "") or "mt-")


@pytest.mark.parametrize(("program", "name"), [("/usr/bin/mt-import-marian", ""), ("x.py", "import_marian")])
def test_a_command_is_found_by_its_name_or_by_that_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str, name: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    assert main(name) == 2
    assert "FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--beam", ["010", "1_0", "5000", "0x", "1e3", "9" * 5000, "true", ""]),
        ("--temperature", ["nan", ".nan", "inf", ".inf", "1e-40", "0", "1:30"]),
        ("--length_alpha", ["1e300", "no", "-1"]),
    ],
)
def test_an_option_of_the_search_has_the_range_and_the_reading_of_a_config(option: str, values: list[str]) -> None:
    parser = CommandParser(description="x", example="x")
    add_search(parser, [option.removeprefix("--")])
    assert vars(parser.parse_args([option, "1"])) == {option.removeprefix("--"): 1}
    for value in values:
        with pytest.raises(UserError, match=r"is not a (whole )?number that is ") as told:
            parser.parse_args([f"{option}={value}"])
        assert len(str(told.value)) < 200


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_table_of_many_columns_fits_80_letters_and_loses_nothing(count: int) -> None:
    rows = [
        ["beam", "BLEU", "chrF", "TER", "length"],
        *([f"b{n}", *[f"{n}.25 [18.03, 22.44]"] * 4] for n in range(count)),
    ]
    lines = aligned(rows).splitlines()
    assert max(map(len, lines)) <= 80
    for row in rows[1:]:
        assert sum(line.split().count(row[0]) for line in lines) == 1
        assert sum(line.count(row[1]) for line in lines) == 4


def test_a_narrow_table_and_one_of_few_columns_stand_upright() -> None:
    assert aligned([["beam", "BLEU"], ["5", "30.25"]]) == "beam   BLEU\n   5  30.25"
    assert aligned([["name", "x" * 100], ["value", "y"]]).splitlines()[0] == " name  " + "x" * 100
