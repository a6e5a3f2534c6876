"""Commands of the package in forked processes, with a fault at their n-th file operation.

To import torch takes seconds, to fork takes milliseconds: everything is imported once, each command is a fork of this
process. The faults come from `inject.c`, which has to be preloaded; where there is no compiler, an audit hook of Python
stands in: it sees files opened, renamed, removed and folders made, but no writes.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).absolute().parent
ROOT = HERE.parents[1]
WINDOW = 8  # lines that are translated together: small, so that a translation can be killed between two windows
SECONDS = 60  # after which a command counts as hanging

OPERATION_KINDS = {
    "kill": (1, 0),
    "kill in a write": (2, 0),
    "EIO": (3, errno.EIO),
    "ESTALE": (3, errno.ESTALE),
    "short write": (4, 0),
    "full disk": (5, errno.ENOSPC),
}  # numbers of `enum kind` in inject.c
_COUNT = 6
_AUDITED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.listdir", "os.scandir"}


class Fault(NamedTuple):
    """What goes wrong: a key of OPERATION_KINDS (or "count"), at which operation, below which folder of the box."""

    kind: str
    number: int
    below: str = ""


@dataclass
class Done:
    """How a command ended."""

    code: int
    """exit code; negative: the signal that ended it"""
    out: bytes
    error: str
    operations: dict[str, int]
    """by kind, how many operations could have gone wrong"""


def compiler() -> str | None:
    """The C compiler at hand, where it can build a library to be preloaded."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None) if sys.platform == "linux" else None


def build_library(folder: Path) -> Path | None:
    """Builds `inject.c` in a folder; None where it cannot be built."""
    library, command = (
        folder / "inject.so",
        [compiler() or "", "-shared", "-fPIC", "-O1", str(HERE / "inject.c"), "-ldl"],
    )
    built = command[0] and subprocess.run([*command, "-o", str(library)], check=False).returncode == 0
    return library if built else None


def prepare_process(arguments: list[str]) -> str:
    """Starts this program again with the library preloaded, or imports what the commands need; how faults are made."""
    if "FAULTS_LIBRARY" not in os.environ:
        library = build_library(Path(tempfile.mkdtemp(prefix="faults-")))
        given = str(library or "")
        settings = {"FAULTS_LIBRARY": given, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        if given:
            settings["LD_PRELOAD"] = given
        os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **settings})
    library_path = os.environ["FAULTS_LIBRARY"]
    os.environ.pop("LD_PRELOAD", None)  # for processes that are started: the faults are ours
    sys.path.insert(0, str(ROOT))
    for module in ("torch._dynamo", "torch.utils.tensorboard", "sacrebleu", "datasets", "ctranslate2", "jinja2"):
        importlib.import_module(module)
    _draw_quickly()
    for path in sorted((ROOT / "mt").rglob("[a-z]*.py")):
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    translator: Any = sys.modules["mt.decoding.translator"]
    translator.WINDOW = WINDOW
    translator.Translator.translate.__kwdefaults__["window"] = WINDOW
    if library_path:
        shutil.rmtree(Path(library_path).parent, ignore_errors=True)  # it is mapped
        return "a preloaded library"
    return "an audit hook of Python, for want of a C compiler: no faults in writes"


def _draw_quickly() -> None:
    """Replaces what draws, which takes most of the time of a command, by a digest of what would be drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def save(figure: Any, buffer: Any, **options: Any) -> None:
        parts = [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]
        parts += [patch.get_extents().extents.tolist() for axes in figure.axes for patch in axes.patches]
        parts += [text.get_text() for axes in figure.axes for text in axes.texts]
        buffer.write(f"<svg >{hashlib.blake2b(repr(parts).encode()).hexdigest()}</svg>")

    canvas: Any = FigureCanvasAgg
    figure: Any = Figure
    canvas.draw, figure.savefig = canvas.get_renderer, save


class Running:
    """A command under way in a box, a folder that is its working directory."""

    def __init__(self, box: Path, arguments: list[str], fault: Fault | None = None, stdin: int | None = None) -> None:
        """`stdin`: a file descriptor to read from; None: nothing to read."""
        self._files = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115 closed by `finish`
        self.pid = os.fork()
        if self.pid == 0:
            _be_command(box, arguments, fault, stdin, [each.fileno() for each in self._files])

    def finish(self) -> Done:
        """Waits for it."""
        status = os.waitpid(self.pid, 0)[1]
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        counts = dict(zip([*OPERATION_KINDS], map(int, texts[2].split())))
        return Done(os.waitstatus_to_exitcode(status), texts[0], texts[1].decode(errors="replace"), counts)


def run(box: Path, arguments: list[str], fault: Fault | None = None) -> Done:
    """Runs a command to its end."""
    return Running(box, arguments, fault).finish()


def _be_command(box: Path, arguments: list[str], fault: Fault | None, stdin: int | None, files: list[int]) -> None:
    """In a fork: the command, as its script runs it."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        os.chdir(box)
        os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin is None else stdin, 0)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        os.closerange(3, files[2])  # other ends of pipes among them
        os.closerange(files[2] + 1, 256)
        sys.stdin, sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(0)), *map(_text_stream, (1, 2)))
        sys.argv = arguments
        counted = _arm(fault, box) if fault is not None else None
        code = sys.modules["mt.cli.commands"].main()
        sys.stdout.flush()
        if counted is not None:
            os.write(files[2], " ".join(map(str, counted())).encode())
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _text_stream(descriptor: int) -> io.TextIOWrapper:
    """As the interpreter opens standard output and error."""
    raw = io.FileIO(descriptor, "w")
    raw.name = ("<stdout>", "<stderr>")[descriptor - 1]
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", line_buffering=descriptor == 2)


def _arm(fault: Fault, box: Path) -> Any:
    """Makes the fault ready; what gives the numbers of operations of each kind."""
    kind, error = OPERATION_KINDS.get(fault.kind, (_COUNT, 0))
    below = str(box.resolve() / fault.below)
    if not os.environ["FAULTS_LIBRARY"]:
        return _arm_hook(kind, error, fault.number, below)
    library = ctypes.CDLL(None)
    library.fault_counted.restype = ctypes.c_long
    library.fault_arm(kind, ctypes.c_long(fault.number), error, below.encode())
    return lambda: [library.fault_counted(each) for each, _ in OPERATION_KINDS.values()]


def _arm_hook(kind: int, error: int, number: int, below: str) -> Any:
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _AUDITED or not isinstance(arguments[0], (str, bytes, os.PathLike)):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(below):
            return
        count += 1
        if count == number or (kind == 5 and count > number):
            if kind == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if error:
                raise OSError(error, os.strerror(error), os.fsdecode(arguments[0]))

    sys.addaudithook(hook)
    return lambda: [0 if "write" in name else count for name in OPERATION_KINDS]
