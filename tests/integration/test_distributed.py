"""Several processes train one model: started by the run itself, by torchrun, and by torchrun on two machines."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """
run_dir: {run}
data:
  root: {root}
  cache: {cache}
  source_language: de
  target_language: en
  train: [{{source: [train.de], target: [train.en]}}]
  valid: [{{source: [valid.de], target: [valid.en]}}]
tokenizer: {{vocabulary_size: 60}}
model: {{width: 16, encoder_layers: 1, decoder_layers: 1, encoder_heads: 2, decoder_heads: 2,
  encoder_feed_forward: 32, decoder_feed_forward: 32, dropout: 0.1}}
train: {{max_steps: {steps}, batch_tokens: 256, max_length: 64, learning_rate: 0.01, warmup_steps: 10,
  checkpoint_every: 5, log_every: 1, accumulate: 3, average: last, average_count: 2, ema_decay: 0.9,
  validate_every: 20}}
decode: {{beam: 2, max_length: 64, max_length_extra: 5, batch_tokens: 512}}
threads: 3
"""
FAILING = """
import os, sys
sys.path.insert(0, {root!r})
import mt.training.run

def without_memory(*arguments, **options):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

if os.environ.get("RANK", "0") == {rank!r}:
    mt.training.run.add_gradients = without_memory
from mt.cli.commands import main
sys.exit(main("train"))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of words and their reversal; the batches of an epoch are no multiple of an update's."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = random.Random(1)
    for split, count in (("train", 300), ("valid", 23)):
        rows = [[generator.choice("abcdefgh") * 3 for _ in range(generator.randint(1, 9))] for _ in range(count)]
        (folder / f"{split}.de").write_text("".join(" ".join(row) + "\n" for row in rows))
        (folder / f"{split}.en").write_text("".join(" ".join(reversed(row)) + "\n" for row in rows))
    return folder


def config(corpus: Path, run: Path, steps: int = 40) -> Path:
    path = run.parent / f"{run.name}.yaml"
    path.write_text(SETTINGS.format(run=run, root=corpus, cache=run.parent / "cache", steps=steps))
    return path


def torchrun(processes: int, *arguments: object, machines: int = 1, port: int = 0) -> list[str]:
    """The command that docs/scaling.md gives."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    if machines > 1:
        command += [
            "--nnodes",
            str(machines),
            "--rdzv-backend",
            "c10d",
            "--rdzv-id",
            "test",
            "--rdzv-endpoint",
            f"localhost:{port}",
        ]
    else:
        command += ["--standalone"]
    return [*command, *map(str, arguments)]


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment, cwd=ROOT, **options)


def done(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, without what torchrun itself writes."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, errors


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return int(server.getsockname()[1])


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def figures(run: Path) -> list[tuple[Any, ...]]:
    names = ("loss", "nll", "bleu", "chrf", "ece", "tokens")
    return [(e["event"], e["step"], *(e.get(name) for name in names)) for e in events(run) if e["event"] != "memory"]


def last_weights(run: Path) -> str:
    last = (run / "last").read_text().strip()
    fingerprint: str = json.loads((run / "checkpoints" / last / "meta.json").read_text())["weights_blake2b"]
    return fingerprint


def said(errors: str) -> list[str]:
    """What our processes tell of an error."""
    return [line for line in errors.split("\n") if line.startswith("error: ")]


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    code, _, errors = done(start([sys.executable, "train.py", str(config(corpus, run)), "--threads", "1"]))
    assert code == 0, errors
    return run


@pytest.fixture(scope="module")
def three(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in three processes that torchrun has started."""
    run = tmp_path_factory.mktemp("three") / "run"
    code, output, errors = done(start(torchrun(3, "train.py", config(corpus, run))))
    assert code == 0, errors
    assert output.split("\n")[-2:] == [f"{run}/checkpoints/{(run / 'best').read_text().strip()}", ""]
    return run


@pytest.mark.slow
def test_three_processes_make_the_updates_and_validations_of_one(alone: Path, three: Path) -> None:
    assert [events(run)[0]["processes"] for run in (alone, three)] == [1, 3]
    assert len(figures(alone)) == len(figures(three)) > 40
    for one, other in zip(figures(alone)[1:], figures(three)[1:]):
        assert one[:2] == other[:2]
        for left, right in zip(one[2:], other[2:]):  # sums of floating-point numbers in another order
            assert left == (None if right is None else pytest.approx(right, rel=1e-4, abs=1e-5))


@pytest.mark.slow
def test_processes_of_its_own_end_as_those_of_torchrun_bit_for_bit(corpus: Path, three: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, errors = done(start([sys.executable, "train.py", str(config(corpus, run))]))
    assert code == 0, errors
    assert figures(run) == figures(three)
    assert last_weights(run) == last_weights(three)


@pytest.mark.slow
def test_two_machines_without_a_shared_disk_train_one_model(corpus: Path, three: Path, tmp_path: Path) -> None:
    """Two agents, one rendezvous, as docs/scaling.md says; each machine prepares for itself."""
    runs = [tmp_path / f"machine{number}" / "run" for number in range(2)]
    for run in runs:
        run.parent.mkdir()
    port = free_port()
    processes = [
        start(torchrun(number + 1, "train.py", config(corpus, run), "--threads", number + 1, machines=2, port=port))
        for number, run in enumerate(runs)
    ]
    results = [done(process) for process in processes]
    assert [code for code, _, _ in results] == [0, 0], results
    written = [run for run in runs if (run / "log.jsonl").exists()]
    assert len(written) == 1, "only the main process writes"
    assert all((run.parent / "cache").exists() for run in runs)
    assert figures(written[0]) == figures(three)
    assert last_weights(written[0]) == last_weights(three)


@pytest.mark.slow
def test_machines_with_different_text_are_told_so(corpus: Path, tmp_path: Path) -> None:
    port = free_port()
    processes = []
    for number in range(2):
        folder = tmp_path / f"machine{number}"
        folder.mkdir()
        for file in corpus.iterdir():
            (folder / file.name).write_text(file.read_text())
        if number:
            (folder / "train.en").write_text((folder / "train.en").read_text().replace("aaa", "abc", 1))
        processes.append(start(torchrun(1, "train.py", config(folder, folder / "run"), machines=2, port=port)))
    for code, _, errors in [done(process) for process in processes]:
        assert code != 0
        assert len(said(errors)) == 1 and "--data.cache" in said(errors)[0], errors


@pytest.mark.parametrize("rank", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_process_that_fails_ends_all_with_its_message(corpus: Path, tmp_path: Path, rank: str) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(root=str(ROOT), rank=rank))
    logs = tmp_path / "logs"
    command = torchrun(3, script, config(corpus, tmp_path / "run"))
    command[3:3] = ["--log-dir", str(logs), "--redirects", "3"]
    code, _, _ = done(start(command))
    assert code != 0
    written = {path.parent.name: path.read_text() for path in logs.rglob("stderr.log")}
    assert len(written) == 3
    assert all("Traceback" not in text for text in written.values()), written
    assert [said(text) != [] for _, text in sorted(written.items())] == [str(r) == rank for r in range(3)], written
    message = said(written[rank])[0]
    assert "train.batch_tokens" in message and "train.activation_checkpointing" in message


@pytest.mark.slow
def test_on_two_machines_the_other_one_is_told_too(corpus: Path, tmp_path: Path) -> None:
    script = tmp_path / "failing.py"
    script.write_text(FAILING.format(root=str(ROOT), rank="1"))
    port = free_port()
    path = config(corpus, tmp_path / "run")
    results = [done(process) for process in [start(torchrun(1, script, path, machines=2, port=port)) for _ in "12"]]
    for code, _, errors in results:
        assert code != 0
        assert len(said(errors)) == 1 and "train.activation_checkpointing" in said(errors)[0], errors


@pytest.mark.slow
def test_a_process_of_its_own_that_fails_ends_the_run_in_one_line(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start([sys.executable, "train.py", str(config(corpus, run, steps=100_000))])
    wait_for_step(process, run, 6)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(workers[0], signal.SIGKILL)
    code, _, errors = done(process, timeout=60)
    assert code == 2
    assert len(said(errors)) == 1 and "a training process has ended" in said(errors)[0]
    assert "Traceback" not in errors


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(event["step"] >= step for event in events(run)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
def test_torchrun_begins_again_at_the_last_checkpoint(corpus: Path, three: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pids = tmp_path / "pids"
    script = tmp_path / "train_noting_its_process.py"
    script.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        f"open({str(pids)!r} + os.environ['RANK'], 'w').write(str(os.getpid()))\n"
        "from mt.cli.commands import main\nsys.exit(main('train'))\n"
    )
    command = torchrun(3, script, config(corpus, run))
    command[3:3] = ["--max-restarts", "1"]
    process = start(command)
    wait_for_step(process, run, 8)
    os.kill(int(Path(f"{pids}1").read_text()), signal.SIGKILL)
    code, _, errors = done(process)
    assert code == 0, errors
    assert "going on after update" in errors
    assert figures(run) == figures(three)
    assert last_weights(run) == last_weights(three)


def test_too_few_batches_for_all_processes_are_told_in_one_line(corpus: Path, tmp_path: Path) -> None:
    path = config(corpus, tmp_path / "run")
    code, _, errors = done(start(torchrun(2, "train.py", path, "--train.accumulate", "1")))
    assert code != 0
    assert len(said(errors)) == 1 and "to 2 or a multiple" in said(errors)[0]
