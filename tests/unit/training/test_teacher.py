"""A run with a teacher: what it learns from, that nothing else changes, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mt.config import Config, TokenizerConfig
from mt.config_file import parse_config, read_config
from mt.corpus.tokenizer import train_tokenizer
from mt.errors import UserError
from mt.losses.distillation import TeacherStates
from mt.losses.projection import LossSums, projected_loss
from mt.model.directory import build_model, load_model, save_model
from mt.training.checkpoint import Checkpoints, TrainingParts
from mt.training.data import Batch, UpdateLoader
from mt.training.distributed import Group
from mt.training.loss import Teacher, add_gradients, batch_loss
from mt.training.optimiser import Gradients
from mt.training.run import Training, train
from mt.training.setup import prepare_data, setup

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(tiny_config: Path, tiny_model: Path) -> Config:
    """A narrower student of `tiny_model`, which is made surer of itself than random weights are."""
    made = load_model(tiny_model, "cpu")
    with torch.no_grad():
        made.model.output_weight.mul_(3)
    save_model(tiny_model, made.model, made.tokenizer, made.config, {"step": 0})
    config = read_config(tiny_config)
    taught = replace(config.train, teacher=str(tiny_model), teacher_temperature=2.0, teacher_weight=0.3)
    loss = replace(config.loss, smoothing=0.0)
    return replace(config, train=taught, loss=loss, model=replace(config.model, width=8))


def with_train(config: Config, **settings: Any) -> Config:
    return replace(config, train=replace(config.train, **settings))


def begun(config: Config) -> TrainingParts:
    return setup(config, prepare_data(config, Group()), CPU, Group())


def batches(config: Config) -> UpdateLoader:
    return UpdateLoader(config, prepare_data(config, Group()), Group(), CPU)


def gradient(parts: TrainingParts, loader: UpdateLoader, bfloat16: bool = False) -> tuple[Tensor, dict[str, float]]:
    """Of the first update, with the random numbers of the seed 3."""
    summed = Gradients(parts.model, Group())
    torch.manual_seed(3)
    for _, batch in next(iter(loader.updates(0, 0))).batches:
        add_gradients(parts.model, batch, parts.loss, summed, bfloat16, parts.teacher)
    figures = summed.reduce()
    return summed.flat.clone(), {name: float(figures[name] / figures["tokens"]) for name in ("loss", "nll")}


def test_the_loss_is_the_mix_and_the_nll_the_students_own(config: Config, tiny_model: Path) -> None:
    parts, loader = begun(config), batches(config)
    assert isinstance(parts.teacher, Teacher) and parts.teacher[1:] == (2.0, 0.3)
    batch = loader.largest(0)
    sums = batch_loss(parts.model.eval(), batch, parts.loss, teacher=parts.teacher)
    teacher = load_model(tiny_model, "cpu").model
    with torch.no_grad():
        student, taught = (
            model.logits(model(batch.source, batch.target_input)).flatten(0, 1).double()
            for model in (parts.model, teacher)
        )
    if batch.positions is not None:
        student, taught = student[batch.positions], taught[batch.positions]
    nll = cross_entropy(student, batch.targets)
    log_t, log_s = torch.log_softmax(taught / 2, 1), torch.log_softmax(student / 2, 1)
    divergence = (log_t.exp() * (log_t - log_s)).sum(1).mean()
    assert float(divergence) > 0.1
    assert sums.loss.item() / batch.tokens == pytest.approx(float(0.7 * nll + 0.3 * 4 * divergence), rel=1e-5)
    assert sums.nll.item() / batch.tokens == pytest.approx(float(nll), rel=1e-5)


def test_of_the_teacher_nothing_is_kept_for_a_gradient(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(*arguments: Any, teacher: TeacherStates, **others: Any) -> LossSums:
        seen.append(teacher.hidden.requires_grad)
        return projected_loss(*arguments, teacher=teacher, **others)

    monkeypatch.setattr("mt.training.loss.projected_loss", spy)
    parts = begun(config)
    gradient(parts, batches(config))
    assert seen and not any(seen)
    assert parts.teacher is not None and all(each.grad is None for each in parts.teacher.model.parameters())


def test_the_teacher_has_no_dropout_and_takes_no_random_numbers_from_the_student(config: Config) -> None:
    loader = batches(config)
    taught, alone = (begun(with_train(config, **each)) for each in ({"teacher_weight": 0.0}, {}))
    found, _ = gradient(taught, loader)
    expected, _ = gradient(alone._replace(teacher=None), loader)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    assert taught.teacher is not None and not taught.teacher.model.training
    again, _ = gradient(taught, loader)
    assert torch.equal(found, again)


def test_a_student_like_its_teacher_has_nothing_to_learn_from_it(config: Config, tiny_model: Path) -> None:
    same = replace(config, model=load_model(tiny_model, "cpu").config.model)
    parts = begun(with_train(same, init_from=str(tiny_model), teacher_weight=1.0))
    parts.model.eval()
    for bfloat16 in (False, True):
        found, figures = gradient(parts, batches(same), bfloat16)
        assert abs(figures["loss"]) < 1e-6 and figures["nll"] > 1 and float(found.norm()) < 1e-5


def test_both_passes_of_r_drop_are_distilled(config: Config) -> None:
    model = replace(config.model, dropout=0.0, embedding_dropout=0.0)  # so that both passes are one
    single = replace(config, model=model)
    both = replace(single, loss=replace(config.loss, name="r_drop"))
    (one, figures), (two, doubled) = (gradient(begun(each), batches(each)) for each in (single, both))
    assert doubled["loss"] == pytest.approx(2 * figures["loss"], rel=1e-5)
    assert doubled["nll"] == pytest.approx(figures["nll"], rel=1e-6)
    torch.testing.assert_close(two, 2 * one, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_micro_batches_is_that_of_one_batch(config: Config) -> None:
    model = replace(config.model, dropout=0.0, embedding_dropout=0.0)
    parts, loader = begun(replace(config, model=model)), batches(config)
    store, (first, second, *_) = loader.plan(0)
    found = []
    for groups in ([first, second], [np.concatenate([first, second])]):
        summed = Gradients(parts.model, Group())
        for group in groups:
            batch = Batch(store, group, loader.prepared.tokenizer, CPU)
            add_gradients(parts.model, batch, parts.loss, summed, teacher=parts.teacher)
        summed.reduce()
        found.append(summed.flat.clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    plain, _ = gradient(parts._replace(teacher=None), loader)
    assert float((found[0] - plain).norm()) > 0.05 * float(plain.norm())


def test_the_text_is_cut_by_the_teachers_tokeniser(config: Config, tiny_model: Path) -> None:
    taught, alone = (prepare_data(each, Group()) for each in (config, with_train(config, **without_teacher())))
    assert taught.tokenizer.fingerprint == load_model(tiny_model, "cpu").tokenizer.fingerprint
    assert alone.tokenizer.fingerprint != taught.tokenizer.fingerprint
    assert alone.fingerprints.keys() == taught.fingerprints.keys() - {"teacher"}


def without_teacher() -> dict[str, Any]:
    return {"teacher": "", "teacher_temperature": 1.0, "teacher_weight": 0.5}


def test_a_run_names_its_teacher_in_loss_and_data(config: Config, tiny_model: Path) -> None:
    folder = train(config)
    assert folder is not None
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["loss"] == "ls:0|target:hard|kl|teacher:0.3|temperature:2"
    assert meta["data"]["teacher"] == load_model(tiny_model, "cpu").weights_digest
    log = [json.loads(line) for line in (Path(config.run_dir) / "log.jsonl").read_text().splitlines()]
    assert (log[0]["loss"], log[0]["data"]) == (meta["loss"], meta["data"])


def test_a_resumed_run_goes_on_bit_for_bit(config: Config) -> None:
    prepared = prepare_data(config, Group())

    def training() -> tuple[Training, Iterator[Any]]:
        begun = Training(config, prepared, setup(config, prepared, CPU, Group()), Group(), None, 0.0)
        begun.clock = 0.0
        return begun, begun.loader.updates(begun.state.epoch, begun.state.batch)

    whole, updates = training()
    whole.update(next(updates), False)
    whole.state.sums = {}
    whole.checkpoints.save(whole.parts, prepared.tokenizer, {})
    last = whole.checkpoints.last()
    assert last is not None
    names = {name for name, _ in whole.model.named_parameters()}
    assert Checkpoints(config).read(last).model.keys() == names  # the teacher is no part of it
    whole.update(next(updates), False)
    resumed, updates = training()
    resumed.update(next(updates), False)
    for name, parameter in resumed.model.named_parameters():
        assert torch.equal(parameter, dict(whole.model.named_parameters())[name]), name


def test_a_run_does_not_go_on_with_another_teacher_or_without_one(config: Config, tiny_model: Path) -> None:
    train(with_train(config, max_steps=1))
    changed = load_model(tiny_model, "cpu")
    torch.nn.init.normal_(changed.model.output_weight)
    save_model(tiny_model, changed.model, changed.tokenizer, changed.config, {"step": 0})
    with pytest.raises(UserError, match=r"run: train\.teacher has changed since this run began; restore it or"):
        begun(with_train(config, max_steps=1))
    with pytest.raises(UserError, match=r"begun with train\.teacher '.*model', not ''"):
        train(with_train(config, max_steps=1, **without_teacher()))


def test_a_teacher_that_changes_while_the_run_begins_is_told(config: Config) -> None:
    prepared = prepare_data(config, Group())
    prepared.fingerprints["teacher"] = "of another one"
    with pytest.raises(UserError, match=r"train\.teacher .*model: has just changed"):
        setup(config, prepared, CPU, Group())


def test_a_teacher_that_is_not_there_or_damaged_is_told_before_the_data_is_prepared(
    config: Config, tiny_model: Path
) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        prepare_data(with_train(config, teacher=str(tiny_model.parent / "nowhere")), Group())
    with (tiny_model / "model.safetensors").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff")
    with pytest.raises(UserError, match=r"model\.safetensors: was changed or damaged"):
        prepare_data(config, Group())
    assert not (tiny_model.parent / "cache").exists()


def test_a_teacher_of_other_languages_or_pieces_is_refused_before_the_data_is_prepared(
    config: Config, tiny_model: Path
) -> None:
    french = replace(config, data=replace(config.data, source_language="fr"))
    with pytest.raises(UserError, match=r"translates from de to en, this run learns fr to en; give a teacher of the"):
        prepare_data(french, Group())
    more = replace(config, tokenizer=replace(config.tokenizer, vocabulary_size=100))
    with pytest.raises(UserError, match=r"train\.teacher .* was made with tokenizer\.vocabulary_size 64, .* says 100"):
        prepare_data(more, Group())
    pieces = train_tokenizer(TokenizerConfig(vocabulary_size=64), ["zwei rote Bälle"] * 9, ["two red balls"] * 9)
    start, made = tiny_model.parent / "start", load_model(tiny_model, "cpu").config
    start.mkdir()
    save_model(start, build_model(made, pieces), pieces, made, {"step": 0})
    both = with_train(replace(config, model=made.model), init_from=str(start))
    with pytest.raises(UserError, match=r"train\.teacher .*model: has another tokeniser than .*start, which this run"):
        prepare_data(both, Group())
    assert not (tiny_model.parent / "cache").exists()
    prepare_data(replace(config, tokenizer=replace(config.tokenizer, sampling=0.1)), Group())  # of the training


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("teacher_temperature", "2", "is 2.0; it must be left out without train.teacher"),
        ("teacher_weight", "0.3", "is 0.3; it must be left out without train.teacher"),
        ("teacher_temperature", "0", "is 0.0; it must be above 0 and at most 100"),
        ("teacher_weight", "1.5", "is 1.5; it must be 0 to 1"),
    ],
)
def test_what_belongs_to_a_teacher_is_refused_without_one(
    option: str, value: str, told: str, tiny_config: Path
) -> None:
    with pytest.raises(UserError) as error:
        parse_config([str(tiny_config), f"--train.{option}", value], "train.py")
    assert str(error.value) == f"--train.{option} {told}"
