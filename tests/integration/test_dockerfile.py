"""The image is built by .ci/run where a Docker daemon answers; what can be known without one is tested here."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COPIED = [
    source
    for line in re.findall(r"^COPY (?!--from)(.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    for source in line.split()[:-1]
]


def test_what_the_image_copies_builds_the_wheel_of_the_checkout(tmp_path: Path) -> None:
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="needs hatchling, which builds the wheel")
    context = tmp_path / "context"
    for name in COPIED:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    held = []
    for root in (ROOT, context):
        wheel = next(hatchling.WheelBuilder(str(root)).build(directory=str(tmp_path / "wheels"), versions=["standard"]))
        with zipfile.ZipFile(wheel) as packed:
            held.append({name for name in packed.namelist() if "__pycache__" not in name})
    assert held[1] == held[0]


def test_what_the_image_copies_is_all_that_is_sent_to_the_daemon() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(COPIED)
    assert "*" in lines
