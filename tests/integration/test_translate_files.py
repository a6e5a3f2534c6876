"""translate.py on files: killed and continued, packed, with equal and too long lines, in constant memory."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mt.cli.score import main as score
from mt.cli.translate import main as translate
from mt.config import TokenizerConfig
from mt.corpus.tokenizer import Tokenizer, train_tokenizer
from mt.errors import UserError
from mt.model.directory import build_model, load_model, save_model

ROOT = Path(__file__).parents[2]
SHORT = ["--max_output", "8"]  # outputs of random weights end only there
WORDS = ["ein", "Hund", "läuft", "eine", "Katze", "der", "Mann", "singt", "Lied", "Frau", "liest", "Buch"]


def write_lines(path: Path, count: int) -> Path:
    generator = random.Random(2)
    lines = [" ".join(generator.choices(WORDS, k=generator.randint(0, 6))) for _ in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(model: Path, source: Path, target: Path, *options: str) -> bytes:
    command = [str(model), "--input", str(source), "--output", str(target), "--beam", "1", *options]
    assert translate(command) == 0
    assert sorted(path.name for path in target.parent.glob(target.name + "*")) == [target.name]
    return target.read_bytes()


def kill_and_go_on(model: Path, folder: Path, kills: int, options: list[str], name: str, lines: int) -> None:
    source = write_lines(folder / "source", lines)
    expected = run(model, source, folder / f"whole-{name}", *options)
    target, partial = folder / name, folder / f"{name}.partial"
    command = [sys.executable, str(ROOT / "translate.py"), str(model), "--input", str(source), "--beam", "1"]
    generator = random.Random(3)
    killed = 0
    for _ in range(kills):
        before = partial.stat().st_size if partial.exists() else 0
        with subprocess.Popen([*command, "--output", str(target), *options]) as process:
            # Some moment after the first output of this call, or before it.
            while process.poll() is None and generator.random() < 0.9:
                while (partial.stat().st_size if partial.exists() else 0) <= before and process.poll() is None:
                    time.sleep(0.002)
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        if process.returncode != 0 and not target.exists():  # not killed on its way out
            killed += 1
            assert not partial.exists() or expected.startswith(partial.read_bytes())
        if target.exists():  # it was faster
            assert target.read_bytes() == expected
            target.unlink()
    assert killed
    assert run(model, source, target, *options) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [("out.jsonl", ["--format", "jsonl", "--threads", "2", *SHORT]), ("out.gz", ["--threads", "1", *SHORT])],
)
def test_a_killed_call_goes_on_to_the_same_file(
    tiny_model: Path, tmp_path: Path, name: str, options: list[str]
) -> None:
    kill_and_go_on(tiny_model, tmp_path, 2, options, name, 7000)


@pytest.mark.slow
def test_ten_kills_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    kill_and_go_on(tiny_model, tmp_path, 10, ["--format", "jsonl", "--threads", "2", *SHORT], "out.jsonl", 24_000)


def test_going_on_keeps_what_is_done(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_lines(tmp_path / "source", 4200)
    expected = run(tiny_model, source, tmp_path / "out", "--threads", "1", *SHORT)
    with pytest.raises(KeyboardInterrupt, match=r"out\.partial keeps what is done"):
        command = [str(tiny_model), "--input", str(source), "--output", str(tmp_path / "out")]
        stop_at(3000, monkeypatch, [*command, "--beam", "1", "--threads", "1", *SHORT])
    partial = tmp_path / "out.partial"
    assert partial.read_bytes() == b"".join(expected.splitlines(keepends=True)[:3000])
    # What stands in it is taken as it is, up to the last whole window.
    partial.write_bytes(partial.read_bytes().replace(b"\n", b" kept\n"))
    again = run(tiny_model, source, tmp_path / "out", "--threads", "1", *SHORT).splitlines()
    assert all(line.endswith(b" kept") for line in again[:2000])
    assert again[2000:] == expected.splitlines()[2000:]


def stop_at(line: int, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """Runs translate.py and interrupts it after so many lines."""
    from mt.files.output import Output

    write = Output.write

    def interrupting(output: Output, number: int, data: bytes) -> None:
        if number == line:
            raise KeyboardInterrupt
        write(output, number, data)

    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", interrupting)
        translate(command)


def test_a_change_of_model_input_or_options_is_refused(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = write_lines(tmp_path / "source", 40), tmp_path / "out"
    command = [str(tiny_model), "--input", str(source), "--output", str(target), "--threads", "1"]
    with pytest.raises(KeyboardInterrupt):
        stop_at(5, monkeypatch, [*command, "--beam", "1"])
    for more, words in [
        (["--beam", "2"], r"options \(beam 1, now 2\)"),
        (["--beam", "1", "--overlong", "cut"], r"options \(overlong split, now cut\)"),
    ]:
        with pytest.raises(UserError, match=f"another {words}; run it as before, or remove it"):
            translate([*command, *more])
    source.write_text(source.read_text(encoding="utf-8") + "Hund\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"another input \(lines 40, now 41"):
        translate([*command, "--beam", "1"])
    write_lines(source, 40)
    meta, config = tiny_model / "meta.json", tiny_model / "config.yaml"
    facts = {name: it for name, it in json.loads(meta.read_text()).items() if name not in ("files", "checksum")}
    meta.write_text(json.dumps({**facts, "note": 1}))
    config.write_text(config.read_text() + "# changed\n")
    with pytest.raises(UserError, match="another model"):
        translate([*command, "--beam", "1"])
    assert len((tmp_path / "out.partial").read_bytes().splitlines()) == 5


def test_a_model_that_does_not_load_touches_nothing(tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "source", 4)
    (tiny_model / "model.safetensors").write_bytes(b"")
    for name in ("out.partial", "out.partial.json", "out"):
        (tmp_path / name).write_text("before")
    with pytest.raises(UserError):
        translate([str(tiny_model), "--input", str(source), "--output", str(tmp_path / "out")])
    assert {path.read_text() for path in tmp_path.glob("out*")} == {"before"} and len(list(tmp_path.glob("out*"))) == 3


def test_gzip_goes_in_and_comes_out(tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "source", 30)
    packed = tmp_path / "source.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    expected = run(tiny_model, source, tmp_path / "out", "--threads", "1")
    assert gzip.decompress(run(tiny_model, packed, tmp_path / "out.gz", "--threads", "1")) == expected


def test_a_byte_order_mark_is_no_part_of_the_first_line(tiny_model: Path, tmp_path: Path) -> None:
    source, marked, prefix = (tmp_path / name for name in ("source", "marked", "prefix"))
    source.write_text("ein Hund\neine Katze\n", encoding="utf-8")
    marked.write_text("ein Hund\neine Katze\n", encoding="utf-8-sig")
    prefix.write_text("the man\n\n", encoding="utf-8-sig")
    options = ["--format", "jsonl", "--threads", "1"]
    assert run(tiny_model, marked, tmp_path / "out", *options) == run(tiny_model, source, tmp_path / "out", *options)
    begun = run(tiny_model, source, tmp_path / "out", "--threads", "1", "--prefix", str(prefix))
    assert begun.startswith(b"the man")


@pytest.mark.parametrize("bad", ["source", "prefix"])
def test_a_line_that_is_not_utf8_is_told_before_any_work(
    tiny_model: Path, tmp_path: Path, bad: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name in ("source", "prefix"):
        (tmp_path / name).write_bytes(b"Hund\n" * 3000 + (b"Stra\xdfe\n" if name == bad else b"Katze\n"))
    command = [str(tiny_model), "--input", str(tmp_path / "source"), "--prefix", str(tmp_path / "prefix")]
    message = rf"{bad}: line 3001 is not UTF-8 \(byte 5 of the line\); convert the file"
    with pytest.raises(UserError, match=message):
        translate([*command, "--output", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(UserError, match=message):
        translate(command)
    assert capfdbinary.readouterr().out == b""
    with pytest.raises(UserError, match=message):
        score([str(tiny_model), "--source", str(tmp_path / "source"), "--target", str(tmp_path / "prefix")])


def another_model(model: Path, seed: int, tokenizer: Tokenizer | None = None) -> Path:
    """A model directory of the same config with other weights."""
    loaded = load_model(model, "cpu")
    tokenizer = tokenizer or loaded.tokenizer
    torch.manual_seed(seed)
    folder = model.with_name(f"model{seed}")
    folder.mkdir()
    save_model(folder, build_model(loaded.config, tokenizer), tokenizer, loaded.config, {"step": 0})
    return folder


def test_outputs_begin_with_their_prefixes(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, prefix = tmp_path / "source", tmp_path / "prefix.gz"
    source.write_text("ein Hund\n" * 3 + "\nein Mann\n" + "ein Hund läuft. " * 300 + "\n", encoding="utf-8")
    prefixes = ["the man", "a", "", "a", "the", "a song"]
    prefix.write_bytes(gzip.compress("\n".join(prefixes).encode()))
    free = run(tiny_model, source, tmp_path / "free", "--threads", "1").decode().splitlines()
    given = ["--prefix", str(prefix), "--threads", "1"]
    begun = run(tiny_model, source, tmp_path / "out", *given).decode().splitlines()
    assert begun[2] == free[2] and begun[3] == "" and begun[0] != begun[1]
    assert [place for place, text in enumerate(begun) if not text] == [3]  # the blank line, which has no prefix
    assert all(text.startswith(start) for text, start in zip(begun, prefixes) if text)

    command = [str(tiny_model), "--input", str(source), "--output", str(tmp_path / "out2"), "--beam", "1", *given]
    with pytest.raises(KeyboardInterrupt):
        stop_at(2, monkeypatch, command)
    prefix.write_text("\n".join(["a man", *prefixes[1:]]))
    with pytest.raises(UserError, match=r"another prefix \(digest"):
        translate(command)
    prefix.write_text("a\nthe\n")
    with pytest.raises(UserError, match=r"the input has 6 lines and .*prefix.gz has 2; they must"):
        translate(command)
    with pytest.raises(UserError, match="--prefix: CTranslate2 cannot honour it"):
        translate([*command[:3], "--prefix", str(source), "--engine", "ctranslate2"])


def test_an_ensemble_translates_and_is_known_by_all_its_models(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_lines(tmp_path / "source", 130)  # enough for worker processes
    second, third = another_model(tiny_model, 2), another_model(tiny_model, 4)
    short, both = [*SHORT, "--threads"], ["--ensemble", str(second)]

    def translated(*options: str) -> bytes:
        return run(tiny_model, source, tmp_path / "out", *short, *options)

    first = translated("1")
    assert translated("1", "--ensemble", str(tiny_model)) == first
    # The recalibration stored with the first model belongs to that model alone; this one would not even load.
    (tiny_model / "calibration.json").write_text("{}")
    together = translated("1", *both)
    assert together != first
    assert translated("2", *both) == together

    command = [str(tiny_model), "--input", str(source), "--output", str(tmp_path / "out"), "--beam", "1", *short[:2]]
    with pytest.raises(KeyboardInterrupt):
        stop_at(5, monkeypatch, [*command, "--threads", "1", *both])
    with pytest.raises(UserError, match="another model"):
        translate([*command, "--threads", "1", "--ensemble", str(third)])
    (tmp_path / "out.partial").unlink()
    with pytest.raises(UserError, match="--ensemble: CTranslate2 cannot honour it"):
        translate([*command, *both, "--engine", "ctranslate2"])
    text = ["anderer Text mit anderen Worten"] * 9
    other = another_model(tiny_model, 3, train_tokenizer(TokenizerConfig(vocabulary_size=64), text, text))
    with pytest.raises(UserError, match="model3: its vocabulary differs from that of .*model; models of an ensemble"):
        translate([*command, "--ensemble", str(other)])


def test_json_lines_hold_alignments(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("ein Hund\n\n", encoding="utf-8")
    output = run(tiny_model, source, tmp_path / "out", "--format", "jsonl", "--alignments", "--threads", "1")
    first, blank = (json.loads(line) for line in output.splitlines())
    assert blank["source_tokens"] == blank["alignment"] == []
    assert first["source_tokens"][-1] == "</s>"
    assert [target for _, target in first["alignment"]] == list(range(len(first["tokens"]) - 1))
    assert all(0 <= place < len(first["source_tokens"]) - 1 for place, _ in first["alignment"])
    with pytest.raises(UserError, match="add --format jsonl"):
        translate([str(tiny_model), "--input", str(source), "--alignments"])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tiny_model: Path, tmp_path: Path) -> None:
    """The peak of the process itself; one worker holds a few batches, whatever the file's size."""
    code = (
        "import resource, sys\nfrom mt.cli.translate import main\nmain(sys.argv[1:])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for count in (4000, 40_000):
        source = write_lines(tmp_path / f"source{count}", count)
        command = [sys.executable, "-c", code, str(tiny_model), "--input", str(source), "--threads", "1"]
        command += ["--beam", "1", "--output", str(tmp_path / "out")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, env=environment)
        peaks.append(int(done.stdout))
    assert peaks[1] < 1.1 * peaks[0]
