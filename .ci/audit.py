"""Looks the versions of constraints.txt up among the known vulnerabilities; `make check` calls it.

Where no list of vulnerabilities can be reached it is skipped, with the reason. A vulnerability that no version mends is
told and does not fail: nothing can be done about it here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_KNOWN_BAD = "jinja2==2.11.2\n"  # an index that finds nothing wrong with it has no list of vulnerabilities
_SECONDS = 120


def audit(requirements: Path) -> list[dict[str, Any]] | str:
    """What pip-audit says of each version, or the reason why it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = f"--disable-pip --no-deps --progress-spinner off --timeout 5 --format json --output {report}".split()
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), *options]
        try:
            run = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return f"no answer within {_SECONDS} seconds"
        try:
            return list(json.loads(report.read_text(encoding="utf-8"))["dependencies"])
        except (OSError, ValueError):  # it writes a report only where it found out something
            return (run.stderr.strip().splitlines() or ["pip-audit gave no report"])[-1][:200]


def main(requirements: Path = ROOT / "constraints.txt") -> int:
    """Prints what it found; 1 where a version has a vulnerability that a later one mends."""
    with tempfile.TemporaryDirectory() as folder:
        known_bad = Path(folder, "known_bad.txt")
        known_bad.write_text(_KNOWN_BAD)
        found = audit(known_bad)
    if not isinstance(found, str) and not any(each.get("vulns") for each in found):
        found = "the package index has no list of vulnerabilities"
    if not isinstance(found, str):
        found = audit(requirements)
    if isinstance(found, str):
        print(f"audit: skipped: {found}")
        return 0
    bad = [(each, vulnerability) for each in found for vulnerability in each.get("vulns", [])]
    for each, vulnerability in bad:
        remedy = (
            f"mended in {', '.join(vulnerability['fix_versions'])}" if vulnerability["fix_versions"] else "no mend yet"
        )
        print(f"audit: {each['name']} {each['version']}: {vulnerability['id']} ({remedy})")
    unknown = sum("skip_reason" in each for each in found)
    print(
        f"audit: {len(found) - unknown} versions looked up, {len(bad)} vulnerabilities"
        + f", {unknown} unknown" * (unknown > 0)
    )
    return int(any(vulnerability["fix_versions"] for _, vulnerability in bad))


if __name__ == "__main__":
    sys.exit(main())
