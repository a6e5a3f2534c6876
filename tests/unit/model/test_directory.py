"""Model directories: what is saved comes back; whatever is broken is one line for the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from mt.errors import UserError
from mt.model.directory import load_model, save_model, weights, write_tensors


def test_a_saved_model_comes_back_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    folder = tmp_path / "copy"
    folder.mkdir()
    save_model(folder, loaded.model, loaded.tokenizer, loaded.config, {"step": 7})
    again = load_model(folder, "cpu")
    assert not again.model.training
    assert again.config == loaded.config
    assert again.tokenizer.fingerprint == loaded.tokenizer.fingerprint
    assert again.meta["step"] == 7
    assert again.meta["parameters"] == sum(p.numel() for p in loaded.model.parameters())
    first, second = weights(loaded.model), weights(again.model)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_file_of_a_model_is_a_pickle(tiny_model: Path) -> None:
    for path in tiny_model.iterdir():
        assert path.suffix in (".yaml", ".json", ".model", ".safetensors")
        assert not path.read_bytes().startswith(b"\x80")  # the pickle protocol's first byte


@pytest.mark.parametrize("name", ["config.yaml", "meta.json", "model.safetensors", "tokenizer.model"])
@pytest.mark.parametrize("damage", ["missing", "half", "empty"])
def test_a_damaged_file_is_named(tiny_model: Path, name: str, damage: str) -> None:
    path = tiny_model / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    with pytest.raises(UserError) as caught:
        load_model(tiny_model, "cpu")
    assert str(tiny_model) in str(caught.value)


def test_weights_of_another_shape_are_refused(tiny_model: Path) -> None:
    config = tiny_model / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 32"))
    with pytest.raises(UserError, match="shape"):
        load_model(tiny_model, "cpu")


def test_another_format_version_is_refused(tiny_model: Path) -> None:
    path = tiny_model / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(UserError, match="format version 99"):
        load_model(tiny_model, "cpu")


def test_a_folder_without_a_model_is_told_apart_from_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        load_model(tmp_path, "cpu")
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "none", "cpu")


def test_an_unknown_device_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="device"):
        load_model(tiny_model, "tpu9000")


def test_weights_that_cannot_be_written_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("mt.model.directory.save_file", full)
    with pytest.raises(UserError, match="No space left on device.*free space"):
        write_tensors({}, tmp_path / "model.safetensors")
