"""Model directories: what is saved comes back; whatever is broken is one line for the user."""

from __future__ import annotations

import json
import shutil
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


def without_checksums(folder: Path, **changes: object) -> None:
    """A meta.json as an earlier version wrote it, or as a person changed it."""
    path = folder / "meta.json"
    facts = {name: it for name, it in json.loads(path.read_text()).items() if name not in ("files", "checksum")}
    path.write_text(json.dumps({**facts, **changes}))


FILES = ["config.yaml", "meta.json", "model.safetensors", "tokenizer.model"]


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_is_refused(tiny_model: Path, name: str) -> None:
    path = tiny_model / name
    content = path.read_bytes()
    places = [round(share * (len(content) - 1)) for share in (0, 0.1, 0.33, 0.5, 0.77, 0.99)]
    for place, bit in zip(places, (0, 6, 3, 6, 1, 4), strict=True):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        with pytest.raises(UserError, match=name):
            load_model(tiny_model, "cpu")
    path.write_bytes(content)
    load_model(tiny_model, "cpu")


def test_files_of_another_model_of_the_same_shape_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    other = tmp_path / "other"
    other.mkdir()
    with torch.no_grad():
        loaded.model.output_weight.mul_(2)
    save_model(other, loaded.model, loaded.tokenizer, loaded.config, {"step": 0})
    shutil.copy(other / "model.safetensors", tiny_model)
    with pytest.raises(UserError, match=r"model\.safetensors: was changed or damaged since .*meta\.json"):
        load_model(tiny_model, "cpu")
    without_checksums(tiny_model)  # as an earlier version wrote it
    with pytest.raises(UserError, match=r"model\.safetensors: was changed or damaged, its weights are not those"):
        load_model(tiny_model, "cpu")


def test_weights_of_another_shape_are_refused(tiny_model: Path) -> None:
    config = tiny_model / "config.yaml"
    config.write_text(config.read_text().replace("width: 16", "width: 32"))
    without_checksums(tiny_model)
    with pytest.raises(UserError, match="shape"):
        load_model(tiny_model, "cpu")


def test_weights_that_are_no_finite_numbers_are_refused(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, "cpu")
    for value in (float("nan"), float("inf"), -float("inf")):
        with torch.no_grad():
            loaded.model.output_weight[3, 5] = value
        save_model(tiny_model, loaded.model, loaded.tokenizer, loaded.config, {"step": 0})
        with pytest.raises(UserError, match=r"model\.safetensors: output_weight holds values that are no finite"):
            load_model(tiny_model, "cpu")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.model", "meta.json"])
def test_a_git_lfs_pointer_is_called_by_its_name(tiny_model: Path, name: str) -> None:
    (tiny_model / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    with pytest.raises(UserError, match=f"{name}: is a Git LFS pointer.*git lfs pull"):
        load_model(tiny_model, "cpu")
    if name != "meta.json":
        without_checksums(tiny_model)
        with pytest.raises(UserError, match=f"{name}: is a Git LFS pointer.*git lfs pull"):
            load_model(tiny_model, "cpu")


def test_the_files_of_a_model_have_the_mode_that_the_umask_gives(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tiny_model.iterdir()} == {(tmp_path / "plain").stat().st_mode}


@pytest.mark.parametrize("change", [{"step": -1}, {"step": "1"}, {"weights_blake2b": 5}, {"files": {"meta.json": 1}}])
def test_facts_of_a_wrong_kind_are_refused(tiny_model: Path, change: dict[str, object]) -> None:
    without_checksums(tiny_model, **change)
    with pytest.raises(UserError, match=r"meta\.json: not as expected"):
        load_model(tiny_model, "cpu")


def test_another_format_version_is_refused(tiny_model: Path) -> None:
    without_checksums(tiny_model, format_version=99)
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

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(UserError, match="No space left on device.*free space"):
        write_tensors({}, tmp_path / "model.safetensors")
