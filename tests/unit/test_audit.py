"""`.ci/audit.py`: a found vulnerability fails; a list that cannot be reached neither fails nor passes for clean."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
KNOWN_BAD = {"name": "jinja2", "version": "2.11.2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.11.3"]}]}
CLEAN = {"name": "torch", "version": "2.13.0", "vulns": []}
UNMENDED = {**CLEAN, "vulns": [{"id": "PYSEC-2", "fix_versions": []}]}
MENDED = {**CLEAN, "vulns": [{"id": "PYSEC-3", "fix_versions": ["2.14.0"]}]}
UNKNOWN = {"name": "jinja2", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("reports", "code", "line"),
    [
        ([[KNOWN_BAD], [CLEAN]], 0, "1 versions looked up, 0 vulnerabilities"),
        ([[KNOWN_BAD], [CLEAN, UNKNOWN]], 0, "1 versions looked up, 0 vulnerabilities, 1 unknown"),
        ([[KNOWN_BAD], [MENDED]], 1, "torch 2.13.0: PYSEC-3 (mended in 2.14.0)"),
        ([[KNOWN_BAD], [UNMENDED]], 0, "torch 2.13.0: PYSEC-2 (no mend yet)"),
        ([[UNKNOWN]], 0, "skipped: the package index has no list of vulnerabilities"),
        ([None], 0, "skipped: no route to host"),
        ([[KNOWN_BAD], None], 0, "skipped: no route to host"),
        (["slow"], 0, "skipped: no answer within"),
    ],
)
def test_how_an_audit_ends(
    reports: list[Any], code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    assert spec is not None and spec.loader is not None
    audit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(audit)
    left = list(reports)

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        report = left.pop(0)
        if report == "slow":
            raise subprocess.TimeoutExpired(command, timeout)
        if report is not None:
            Path(command[command.index("--output") + 1]).write_text(json.dumps({"dependencies": report}))
        return subprocess.CompletedProcess(command, 1, "", "ERROR\nno route to host\n")

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main() == code
    assert line in capsys.readouterr().out
    assert not left
