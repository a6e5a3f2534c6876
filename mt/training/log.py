"""The run's log: `log.jsonl` is the source of truth, TensorBoard shows the same figures."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt.errors import UserError
from mt.files.atomic import write_text
from mt.training.validation import Validation


def read_log(path: Path) -> list[dict[str, Any]]:
    """All events of a log; none where there is no file yet. A last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            if line:
                events.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise UserError(f"{path} line {number}: not JSON; restore the file or take another run_dir") from None
    return events


class RunLog:
    """Appends events to `log.jsonl` and draws them in TensorBoard."""

    def __init__(self, run_directory: Path, step: int) -> None:
        """Opens the log of a run that stands at update `step`; events of later updates are taken back.

        They come from a run that was killed after its last checkpoint, and will be made again.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.path = run_directory / "log.jsonl"
        kept = [event for event in read_log(self.path) if event["step"] <= step]
        write_text(self.path, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))
        self.file = self.path.open("a", encoding="utf-8", newline="\n")
        self.board = SummaryWriter(str(run_directory / "tensorboard"), purge_step=step + 1 if kept else None)

    def event(self, name: str, step: int, **figures: Any) -> None:
        """Writes one event; numbers also go to TensorBoard under `name/figure`."""
        record = {"event": name, "step": step, "time": round(time.time(), 3), **figures}
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.file.flush()
        for key, value in figures.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.board.add_scalar(f"{name}/{key}", value, step)

    def validation(self, name: str, found: Validation, step: int, epoch: int, is_best: bool) -> None:
        """Tells and draws what a validation of the checkpoint `name` found."""
        from mt.report.reliability import reliability_image

        say_figures(name, found.figures, is_best)
        self.event("valid", step, epoch=epoch, **found.figures)
        self.board.add_image("valid/reliability", reliability_image(found.calibration), step, dataformats="HWC")
        # Corpus text is escaped, as TensorBoard renders markup.
        rows = [("source", "reference", "translation"), *found.samples]
        cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        self.board.add_text("valid/samples", "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>", step)

    def close(self) -> None:
        """Flushes and closes both."""
        self.file.close()
        self.board.close()


def say_figures(name: str, figures: Mapping[str, float], is_best: bool) -> None:
    """One line on standard output about a validated checkpoint."""
    print(
        f"{name}: nll {figures['nll']:.4f}  perplexity {figures['perplexity']:.2f}  ece {figures['ece']:.4f}  "
        f"BLEU {figures['bleu']:.2f}  chrF {figures['chrf']:.2f}{'  best' * is_best}",
        flush=True,
    )
