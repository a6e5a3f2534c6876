"""A run directory that is damaged, or is not what it seems, is never gone on with in silence."""

from __future__ import annotations

import fcntl
import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mt.config import Config, CorpusConfig, DataConfig, ModelConfig, TrainConfig
from mt.config_file import dump_config, read_config
from mt.corpus.tokenizer import Tokenizer, load_tokenizer
from mt.errors import UserError
from mt.model.directory import build_model, load_model, model_directory
from mt.training.checkpoint import Checkpoints, TrainingParts, TrainState
from mt.training.optimiser import Optimiser
from mt.training.run_directory import claimed, is_finished, read_log

NAMES = [f"step_{step:08d}" for step in (2, 4, 6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A run directory with three checkpoints, the second of them the best."""
    folder = tmp_path_factory.mktemp("made") / "run"
    corpus = CorpusConfig(files=["unused.tsv"])
    sizes = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_heads", "decoder_heads"), 1)
    config = Config(
        run_dir=str(folder),
        data=DataConfig(source_language="de", target_language="en", train=[corpus], valid=[corpus]),
        train=TrainConfig(max_steps=6),
        model=ModelConfig(width=8, encoder_feed_forward=8, decoder_feed_forward=8, **sizes),  # type: ignore[arg-type]
    )
    model = build_model(config, tokenizer)
    optimiser = Optimiser(model, config.train)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    scores: dict[str, float] = {}
    for name, score in zip(NAMES, (3.0, 1.0, 2.0), strict=True):
        optimiser.step(1e-3)
        scores[name] = score
        best = min(scores, key=lambda each: scores[each])
        state = TrainState(step=int(name[-8:]), best=best, scores=dict(scores), sums={"loss": 1.5})
        Checkpoints(config).save(TrainingParts(model, None, optimiser, None, state), tokenizer, {})  # type: ignore[arg-type]
    (folder / "config.yaml").write_text(dump_config(config))
    (folder / "log.jsonl").write_text('{"event": "start", "step": 0}\n{"event": "finished", "step": 6}\n')
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def config_of(run: Path) -> Config:
    return replace(read_config(run / "config.yaml"), run_dir=str(run))


def resume(run: Path) -> None:
    """Reads the last checkpoint into a new model, as a training that goes on."""
    config = config_of(run)
    checkpoints = Checkpoints(config)
    last = checkpoints.last()
    assert last is not None
    model = build_model(config, load_tokenizer(last))
    checkpoints.read(last).restore(model, Optimiser(model, config.train), None)


def without_checksums(path: Path, **changes: Any) -> None:
    """A JSON file as an earlier version wrote it, or as a person changed it."""
    content = {name: it for name, it in json.loads(path.read_text()).items() if name not in ("files", "checksum")}
    path.write_text(json.dumps({**content, **changes}))


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def test_the_undamaged_run_goes_on_and_has_its_best(run: Path) -> None:
    resume(run)
    assert model_directory(run).name == NAMES[1]
    assert is_finished(config_of(run))


@pytest.mark.parametrize("share", [0, 0.2, 0.6, 0.97])
@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json", "meta.json"])
def test_one_flipped_bit_of_the_last_checkpoint_is_refused(run: Path, name: str, share: float) -> None:
    path = run / "checkpoints" / NAMES[-1] / name
    flip(path, int(share * path.stat().st_size), 6)
    with pytest.raises(UserError, match=name):
        resume(run)


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "training.json", "meta.json"])
def test_a_file_of_another_checkpoint_is_refused(run: Path, name: str) -> None:
    shutil.copy(run / "checkpoints" / NAMES[0] / name, run / "checkpoints" / NAMES[-1])
    with pytest.raises(UserError, match=name):
        resume(run)


@pytest.mark.parametrize("pointer", ["best", "last"])
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"step_2", b"step_00000003", b"../../other", b"\xff\xfe", b"/", b"step_00000002\0", b"."]
)
def test_a_pointer_that_names_no_checkpoint_is_refused(run: Path, pointer: str, content: bytes) -> None:
    (run / pointer).write_bytes(content)
    with pytest.raises(UserError, match=f"{pointer}: names .*which is not there.*write the name"):
        load_model(run, "cpu")
    if pointer == "last":
        with pytest.raises(UserError, match="last: names .*which is not there"):
            resume(run)


@pytest.mark.parametrize("other", [NAMES[0], NAMES[2]])
def test_a_best_pointer_to_another_checkpoint_is_refused(run: Path, other: str) -> None:
    (run / "best").write_text(other + "\n")
    with pytest.raises(
        UserError, match=rf"best: names {other}, but the best checkpoint is {NAMES[1]}, as .*training\.json"
    ):
        load_model(run, "cpu")


def test_a_best_pointer_that_is_missing_is_refused_where_there_is_a_best(run: Path) -> None:
    (run / "best").unlink()
    with pytest.raises(UserError, match=f"best: is missing, but the best checkpoint is {NAMES[1]}"):
        load_model(run, "cpu")


def test_the_best_of_a_save_that_was_killed_is_taken_before_and_after_its_pointer_moved(run: Path) -> None:
    killed = run / "checkpoints" / NAMES[-1] / "training.json"
    without_checksums(killed, best=NAMES[-1])  # the newest one is the best, says it; `last` has not moved yet
    (run / "last").write_text(NAMES[1] + "\n")
    for best in NAMES[1:]:
        (run / "best").write_text(best + "\n")
        assert model_directory(run).name == best


def test_a_last_pointer_to_an_old_checkpoint_is_refused(run: Path) -> None:
    (run / "last").write_text(NAMES[0] + "\n")
    with pytest.raises(UserError, match=f"last: names {NAMES[0]}, but there are newer ones up to {NAMES[2]}"):
        resume(run)
    (run / "last").write_text(NAMES[1] + "\n")  # killed before it moved
    resume(run)


def test_a_run_whose_last_pointer_is_lost_goes_on_from_its_newest_checkpoint_with_its_own_config(run: Path) -> None:
    (run / "last").unlink()
    resume(run)
    with claimed(config_of(run)):
        pass
    other = replace(config_of(run), seed=99)
    with pytest.raises(UserError, match="was begun with seed"), claimed(other):
        pass


@pytest.mark.parametrize(
    "change",
    [
        {"step": 10**9},
        {"step": -1},
        {"step": "6"},
        {"step": 10**400},
        {"epoch": 7},
        {"batch": -1},
        {"bad_validations": 10**9},
        {"best": "step_00000005"},
        {"best": 5},
        {"scores": {"step_00000004": "low"}},
        {"scores": [1]},
        {"sums": {"loss": "1"}},
        {"seconds": -1.0},
        {"fingerprints": None},
    ],
)
def test_a_training_state_out_of_range_is_refused(run: Path, change: dict[str, Any]) -> None:
    without_checksums(run / "checkpoints" / NAMES[-1] / "training.json", **change)
    with pytest.raises(UserError, match=r"training\.json: "):
        resume(run)


@pytest.mark.parametrize("text", ['{"step": NaN}', "[" * 5000, "[]", "null", "{", "\xff"])
def test_a_training_state_that_is_none_is_refused(run: Path, text: str) -> None:
    (run / "checkpoints" / NAMES[-1] / "training.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"training\.json: not as expected"):
        resume(run)


def test_states_of_the_optimiser_that_do_not_fit_are_refused_without_checksums_too(run: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = run / "checkpoints" / NAMES[-1]
    without_checksums(folder / "training.json")
    tensors = load_file(folder / "training.safetensors")
    name = "optimiser.exp_avg.output_weight"
    for damaged, words in (
        ({key: it for key, it in tensors.items() if key != name}, "fits output_weight"),
        ({**tensors, name: tensors[name][:-1].contiguous()}, "fits output_weight"),
        ({**tensors, name: torch.full_like(tensors[name], float("nan"))}, f"{name} holds values that are no finite"),
    ):
        save_file(damaged, folder / "training.safetensors")
        with pytest.raises(UserError, match=rf"training\.safetensors: .*{words}"):
            resume(run)


@pytest.mark.parametrize(
    "line",
    [
        *(b"[]", b"5", b'{"step": NaN}', b"\xff\xfe", b'{"a": ' * 3000, b'{"event": "train"}'),
        *(b'{"event": 3, "step": 1}', b'{"event": "train", "step": "1"}', b'{"event": "train", "step": -1}'),
        b'{"event": "train", "step": 1.5}',
    ],
)
def test_a_line_of_the_log_that_is_no_event_is_named(run: Path, line: bytes) -> None:
    (run / "log.jsonl").write_bytes(b'{"event": "start", "step": 0}\n' + line + b'\n{"event": "train", "step": 2}\n')
    with pytest.raises(UserError, match=r"log\.jsonl line 2: not as expected"):
        read_log(run / "log.jsonl")


def test_a_log_that_says_finished_of_another_checkpoint_does_not_end_the_run(run: Path) -> None:
    (run / "log.jsonl").write_text('{"event": "finished", "step": 1000000000}\n')
    assert not is_finished(config_of(run))


def test_a_lock_that_its_last_holder_removed_holds_nobody_else_off_but_never_two_run(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second opens the lock file; the first, done, removes it; a third makes a new one and holds it."""
    lock, real, held = run / ".lock", fcntl.flock, []

    def flock(file: Any, how: int) -> None:
        real(file, how)
        if not held:
            lock.unlink()
            held.append(lock.open("w"))
            real(held[0], how)

    monkeypatch.setattr("mt.files.atomic.fcntl.flock", flock)
    with pytest.raises(UserError, match="another training is running"), claimed(config_of(run)):
        pass
    held[0].close()
    with claimed(config_of(run)), pytest.raises(UserError, match="another training"), claimed(config_of(run)):
        pass
    assert not lock.exists()


def test_a_flipped_exponent_of_a_weight_is_found_where_an_earlier_version_wrote_the_run(run: Path) -> None:
    folder = run / "checkpoints" / NAMES[-1]
    for name in ("meta.json", "training.json"):
        without_checksums(folder / name)
    resume(run)
    path = folder / "model.safetensors"
    header = struct.unpack("<Q", path.read_bytes()[:8])[0]
    flip(path, 8 + header + 4 * 100 + 3, 6)
    with pytest.raises(UserError, match=r"model\.safetensors: "):
        resume(run)
