"""The log takes back what a killed run wrote after its last checkpoint; a run that is to end is told."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from mt.errors import UserError
from mt.metrics.bins import CalibrationBins
from mt.training.distributed import interruptible
from mt.training.run_directory import RunLog, read_log
from mt.training.validation import Validation


def test_events_after_the_checkpoint_and_a_cut_last_line_are_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [{"event": "train", "step": step} for step in (10, 20, 30)]
    path.write_text("\n".join(json.dumps(event) for event in events) + '\n{"event": "tra')
    log = RunLog(tmp_path, 20)
    log.event("train", 30, loss=1.5)
    log.close()
    assert [(event["step"], event.get("loss")) for event in read_log(path)] == [(10, None), (20, None), (30, 1.5)]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "start", "step": 1}\nnonsense\n{"event": "train", "step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_log(tmp_path / "log.jsonl")


def test_corpus_text_is_escaped_in_tensorboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = RunLog(tmp_path, 0)
    figures = {"nll": 1.0, "perplexity": 2.7, "ece": 0.1, "bleu": 20.0, "chrf": 40.0}
    bins = CalibrationBins()
    bins.update([0.8], [True])
    samples = [("<script>alert(1)</script>", "a & b", "c")]
    log.validation("step_00000001", Validation(figures, bins.block(), samples), 1, 0, True)
    log.close()
    assert (
        capsys.readouterr().out
        == "step_00000001: nll 1.0000  perplexity 2.70  ece 0.1000  BLEU 20.00  chrF 40.00  best\n"
    )
    assert [event["event"] for event in read_log(tmp_path / "log.jsonl")] == ["valid"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"&lt;script&gt;" in written
    assert b"<script>" not in written


def test_a_full_disk_under_tensorboard_is_told_by_its_folder_and_not_by_its_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # in place of pytest's
    log = RunLog(tmp_path, 0)
    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(OSError) as raised:
        for step in range(1000):
            log.event("train", step, loss=1.0)
            time.sleep(0.01)
    assert raised.value.filename == str(tmp_path / "tensorboard")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_is_noted_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible(insistent=False) as received:
        os.kill(os.getpid(), number)
    assert received == [number] and signal.getsignal(number) == before


def test_under_nohup_the_end_of_the_terminal_is_none_of_the_training() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(insistent=False) as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)
