"""tools/export.py and tools/import_marian.py as a user runs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_a_model_goes_out_to_ctranslate2(tiny_model: Path, tmp_path: Path, run_command: Callable[..., Any]) -> None:
    pytest.importorskip("ctranslate2")
    done = run_command("tools/export.py", tiny_model, "--format", "ctranslate2", "--output", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, f"wrote {tmp_path / 'out'}\n")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"model.bin", "config.json", "tokenizer.model"}
    again = run_command("tools/export.py", tiny_model, "--format", "ctranslate2", "--output", tmp_path / "out")
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_form_that_marian_lacks_is_one_line_and_leaves_nothing(
    tiny_model: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    done = run_command("tools/export.py", tiny_model, "--format", "marian", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.norm is pre: Marian cannot express it")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_model_goes_out_to_marian_and_comes_back(
    tiny_model: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    config = tiny_model / "config.yaml"  # the tiny model's final norms go, as post-norm models have none
    text = config.read_text().replace("norm: pre", "norm: post")
    config.write_text(text)
    drop_final_norms(tiny_model)
    meta = tiny_model / "meta.json"  # without digests of the files, as a model of an earlier version
    kept = {name: value for name, value in json.loads(meta.read_text()).items() if name in ("format_version", "step")}
    meta.write_text(json.dumps(kept))
    out, back = tmp_path / "out", tmp_path / "back"
    done = run_command("tools/export.py", tiny_model, "--format", "marian", "--output", out)
    assert (done.returncode, done.stderr) == (0, f"wrote {out}\n")
    done = run_command("tools/import_marian.py", out, "--output", back)
    told = f"wrote {back}\nnext: python translate.py {back} --input F --output F\n"
    assert (done.returncode, done.stderr) == (0, told)
    assert json.loads((back / "meta.json").read_text())["imported_from"] == "marian"
    lines = "ein Hund läuft 3\n\ndie Frau singt\n"
    before, after = (run_command("translate.py", model, stdin=lines) for model in (tiny_model, back))
    assert before.returncode == after.returncode == 0
    assert before.stdout == after.stdout
    assert before.stdout.count("\n") == 3


def drop_final_norms(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    final = ("encoder_norm.weight", "encoder_norm.bias", "decoder_norm.weight", "decoder_norm.bias")
    save_file({name: tensor for name, tensor in tensors.items() if name not in final}, folder / "model.safetensors")
