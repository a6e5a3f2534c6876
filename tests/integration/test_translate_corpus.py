"""tools/translate_corpus.py: by processes, tasks or a Ray cluster, the shards are what translate.py gives."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mt.cli.translate import main as translate
from mt.cli.translate_corpus import main as translate_corpus
from mt.errors import UserError

ROOT = Path(__file__).parents[2]
WORDS = ["ein", "Hund", "läuft", "eine", "Katze", "der", "Mann", "singt", "Lied", "Frau", "liest", "Buch", "☃"]
SHORT = ["--beam", "1", "--max_output", "8", "--engine", "torch"]  # outputs of random weights end only there


def write_text(folder: Path, lines: int) -> list[Path]:
    """A plain file, one of Windows, an empty one and a packed one; blank lines among the others."""
    generator = random.Random(2)
    text = [" ".join(generator.choices(WORDS, k=generator.randint(0, 7))) + "\n" for _ in range(lines)]
    folder.mkdir()
    third = lines // 3
    text[third - 1] = "Hund\n"
    (folder / "a.txt").write_text("".join(text[:third]).removesuffix("\n"))
    (folder / "b.txt").write_bytes("".join(text[third : 2 * third]).replace("\n", "\r\n").encode())
    (folder / "c.txt").touch()
    (folder / "d.txt").write_bytes(gzip.compress("".join(text[2 * third :]).encode()))
    return sorted(folder.iterdir())


def expected(model: Path, paths: list[Path], folder: Path, *options: str) -> bytes:
    target = folder / "expected"
    assert translate([str(model), "--input", *map(str, paths), "--output", str(target), *options]) == 0
    return target.read_bytes()


def joined(out: Path, name: str = "joined") -> bytes:
    target = out.parent / name
    assert translate_corpus(["--output", str(out), "--join", str(target)]) == 0
    return target.read_bytes()


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> list[str]:
    write_text(tmp_path / "mono", 900)
    return [str(tiny_model), "--input", str(tmp_path / "mono/*.txt"), "--output", str(tmp_path / "out"), *SHORT]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_joined_shards_are_what_translate_writes(command: list[str], tiny_model: Path, tmp_path: Path) -> None:
    whole = expected(tiny_model, sorted((tmp_path / "mono").iterdir()), tmp_path, *SHORT)
    assert translate_corpus([*command, "--lines_per_shard", "70", "--processes", "2"]) == 0
    assert files(tmp_path / "out") == [*(f"{number:05d}-of-00013.txt" for number in range(13)), "plan.json"]
    assert joined(tmp_path / "out") == whole
    assert whole.count(b"\n") == 900


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "text.gz", "parquet"])
def test_each_format_holds_the_same(command: list[str], tiny_model: Path, tmp_path: Path, form: str) -> None:
    options = ["--format", "text" if form == "text.gz" else "jsonl"]
    whole = expected(tiny_model, sorted((tmp_path / "mono").iterdir()), tmp_path, *SHORT, *options)
    # as many lines as are translated together: numbers agree to their last digit
    assert translate_corpus([*command, "--lines_per_shard", "2000", "--processes", "1", "--format", form]) == 0
    data = joined(tmp_path / "out", "joined.gz" if form.endswith(".gz") else "joined")
    if form == "parquet":
        rows = pq.read_table(tmp_path / "joined").to_pylist()
        records = list(map(json.loads, whole.splitlines()))
        assert [{name: row[name] for name in record} for row, record in zip(rows, records, strict=True)] == records
    else:
        assert (gzip.decompress(data) if form.endswith(".gz") else data) == whole


def test_tasks_do_all_shards_once(command: list[str], tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert translate_corpus([*command, "--lines_per_shard", "100", "--plan"]) == 0
    assert files(out) == ["plan.json"]
    seen: list[set[str]] = []
    for task in (2, 0, 1):
        before = set(files(out))
        task_options = ["--processes", "1", "--task", str(task), "--tasks", "3"]
        assert translate_corpus([*command, "--lines_per_shard", "100", *task_options]) == 0
        seen.append(set(files(out)) - before)
    assert [len(names) for names in seen] == [3, 3, 3]
    assert len(set().union(*seen)) == 9
    assert joined(out) == expected(tiny_model, sorted((tmp_path / "mono").iterdir()), tmp_path, *SHORT)


def test_a_run_goes_on_with_its_own_plan_only(command: list[str], tmp_path: Path, tiny_model: Path) -> None:
    options = ["--lines_per_shard", "300", "--processes", "1"]
    assert translate_corpus([*command, *options]) == 0
    (tmp_path / "out/00001-of-00003.txt").unlink()
    with pytest.raises(UserError, match=r"1 of 3 shards are missing, 00001-of-00003.txt the first"):
        joined(tmp_path / "out")
    for other, words in (
        (["--beam", "3"], r"another options \(beam 1, now 3\)"),
        (["--lines_per_shard", "200"], r"another options \(lines_per_shard 300, now 200\)"),
        (["--format", "jsonl"], "another options"),
    ):
        with pytest.raises(UserError, match=words):
            translate_corpus([*command, *options, *other])
    # text that was only touched is read again, and is the same
    os.utime(tmp_path / "mono/a.txt", (1, 1))
    assert translate_corpus([*command, *options]) == 0
    assert files(tmp_path / "out")[1] == "00001-of-00003.txt"
    (tmp_path / "mono/a.txt").write_text((tmp_path / "mono/a.txt").read_text() + " Hund")
    with pytest.raises(UserError, match=r"another input \(digest"):
        translate_corpus([*command, *options])
    (tiny_model / "notes.json").write_text("{}")
    with pytest.raises(UserError, match="another model"):
        translate_corpus([*command, *options])


@pytest.mark.parametrize("form", ["text", "text.gz", "parquet"])
def test_no_lines_are_no_shards_and_an_empty_file(tiny_model: Path, tmp_path: Path, form: str) -> None:
    (tmp_path / "empty").touch()
    out, name = tmp_path / "out", "joined.gz" if form == "text.gz" else "joined"
    command = [str(tiny_model), "--input", str(tmp_path / "empty"), "--output", str(out), "--format", form]
    assert translate_corpus(command) == 0
    data = joined(out, name)
    assert pq.read_metadata(tmp_path / name).num_rows == 0 if form == "parquet" else data == b""
    assert translate_corpus(["--output", str(out), "--status"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{model}", "--output", "{out}"], "give MODEL and --input"),
        (["{model}", "--input", "{text}", "--output", "{out}", "--task", "1"], "--task and --tasks: give both"),
        (["{model}", "--input", "{text}", "--output", "{out}", "--task", "2", "--tasks", "2"], "must be 0 to 1"),
        (["{model}", "--input", "{text}", "--output", "{out}", "--nbest", "2"], "--nbest: text has one line for each"),
        (["{model}", "--input", "{out}/*.gz", "--output", "{out}"], "no such file; quote a pattern"),
        (["{model}", "--input", "{text}", "--output", "{folder}"], "lies in the folder of --output"),
        (["{model}", "--input", "{text}", "--output", "{model}"], "is the folder of MODEL"),
        (["--output", "{out}", "--status"], "holds no plan.json"),
        (["--output", "{out}", "--join", "{text}"], "holds no plan.json"),
    ],
)
def test_what_cannot_be_right_is_refused(tiny_model: Path, tmp_path: Path, arguments: list[str], words: str) -> None:
    folder = tmp_path / "mono"
    folder.mkdir()
    (folder / "text").write_text("ein Hund\n")
    names = {"model": tiny_model, "out": tmp_path / "out", "folder": folder, "text": folder / "text"}
    with pytest.raises(UserError, match=words):
        translate_corpus([each.format(**names) for each in arguments])
    assert not (tmp_path / "out").exists()


def test_a_join_replaces_no_input_and_promises_no_other_format(command: list[str], tmp_path: Path) -> None:
    assert translate_corpus([*command, "--processes", "1"]) == 0
    for name, words in (
        ("out/00000-of-00001.txt", "same file as a shard"),
        ("joined.gz", "the shards are not packed"),
        ("mono/a.txt", "same file as --input"),
    ):
        with pytest.raises(UserError, match=words):
            joined(tmp_path / "out", name)
    with pytest.raises(UserError, match="another options"):
        translate_corpus([*command, "--beam", "3", "--join", str(tmp_path / "joined")])
    assert (tmp_path / "mono/a.txt").stat().st_size > 100


# What follows starts the command as a user does, several times: enough work that it can be killed half-way.


@pytest.fixture
def long_command(tiny_model: Path, tmp_path: Path) -> list[str]:
    write_text(tmp_path / "mono", 12_000)
    options = ["--beam", "4", "--max_output", "30", "--engine", "torch", "--lines_per_shard", "500"]
    return [str(tiny_model), "--input", str(tmp_path / "mono/*.txt"), "--output", str(tmp_path / "out"), *options]


def start(command: list[str], *options: str) -> subprocess.Popen[str]:
    script = str(ROOT / "tools/translate_corpus.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, script, *command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    while len(list(out.glob("[0-9]*-of-*"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def whole_of(tiny_model: Path, tmp_path: Path, command: list[str]) -> bytes:
    return expected(tiny_model, sorted((tmp_path / "mono").iterdir()), tmp_path, *command[5:-2])


def children(process: subprocess.Popen[str]) -> list[int]:
    """Its processes that translate."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            line = stat.with_name("cmdline").read_text()
        except (OSError, IndexError):
            continue
        if parent == process.pid and "spawn_main" in line:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_killed_runs_go_on_and_killed_workers_are_replaced(
    long_command: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = whole_of(tiny_model, tmp_path, long_command)
    process = start(long_command, "--processes", "2")
    wait_for_shards(out, 3, process)
    process.kill()  # its workers notice
    process.communicate()
    time.sleep(1.5)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("[0-9]*-of-*")}
    assert 3 <= len(kept) < 24
    assert [path for path in out.iterdir() if path.name.startswith(".0")]  # half-written shards
    process = start(long_command, "--processes", "2")
    wait_for_shards(out, len(kept) + 2, process)
    os.kill(children(process)[0], signal.SIGKILL)
    assert process.wait(timeout=120) == 0, process.communicate()
    assert joined(out) == whole
    assert all((out / name).stat().st_mtime_ns == changed for name, changed in kept.items())
    assert [name for name in files(out) if name.startswith(".")] == []


@pytest.mark.slow
def test_two_runs_at_once_share_the_shards(long_command: list[str], tiny_model: Path, tmp_path: Path) -> None:
    whole = whole_of(tiny_model, tmp_path, long_command)
    runs = [start(long_command, "--processes", "1") for _ in range(2)]
    assert [run.wait(timeout=120) for run in runs] == [0, 0], [run.communicate() for run in runs]
    assert joined(tmp_path / "out") == whole
    assert len(files(tmp_path / "out")) == 25


@pytest.mark.slow
def test_an_interrupted_run_ends_at_once_and_says_so(long_command: list[str], tmp_path: Path) -> None:
    process = start(long_command, "--processes", "2")
    wait_for_shards(tmp_path / "out", 1, process)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, told = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in told) == (130, False), told
    assert time.monotonic() - begun < 10


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of a head without processors and two machines, on this one."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def ray_workers(seconds: float = 60) -> list[int]:
    """Process ids of actors that hold a model."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        titles = [(path, path.read_bytes()) for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
        if found := [int(path.parent.name) for path, title in titles if title.startswith(b"ray::MapWorker")]:
            return found
        time.sleep(0.1)
    raise AssertionError("no worker of Ray Data was seen")


@pytest.mark.slow
def test_a_cluster_loses_a_worker_and_then_a_machine(
    cluster: Any, long_command: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = whole_of(tiny_model, tmp_path, long_command)
    machine = cluster.add_node(num_cpus=1)
    process = start(long_command, "--ray", cluster.address, "--processes", "2")
    wait_for_shards(out, 2, process)
    os.kill(ray_workers()[0], signal.SIGKILL)
    wait_for_shards(out, 5, process)
    cluster.remove_node(machine, allow_graceful=False)
    _, told = process.communicate(timeout=240)
    assert process.returncode == 0, told
    assert joined(out) == whole
    assert [name for name in files(out) if name.startswith(".")] == []


@pytest.mark.slow
def test_what_goes_wrong_on_a_cluster_is_told_in_one_line(cluster: Any, command: list[str], tmp_path: Path) -> None:
    assert translate_corpus([*command, "--plan"]) == 0
    text = tmp_path / "mono/a.txt"
    before = text.stat()
    text.write_text(text.read_text().replace("Hund", "Hand"))  # behind the plan's back: of the same size and time
    os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
    process = start(command, "--ray", cluster.address)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 2
    error = told.strip().splitlines()[-1]
    assert error.startswith("error: 1 of 1 shards could not be translated, because of:") and "not what it was" in error


def test_no_cluster_is_told_in_one_line(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray[data]'")
    with pytest.raises(UserError, match=r"--ray 127.0.0.1:9: no cluster answers"):
        translate_corpus([*command, "--ray", "127.0.0.1:9"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="Ray is not installed"):
        translate_corpus([*command, "--ray", "auto"])
