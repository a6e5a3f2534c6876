"""Translation with a lexical shortlist."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mt.corpus.store import create_store, open_store
from mt.corpus.tokenizer import Tokenizer
from mt.decoding.scoring import score_pairs
from mt.decoding.shortlist import FILE, Shortlist, learn_shortlist, load_shortlist, save_shortlist
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.model.directory import LoadedModel, build_model

LINES = ["der hund sieht einen ball", "frau", "die frau liest ein buch am fluss", "und der ball", "", "ein rotes buch"]


def _translator(loaded: LoadedModel, folder: Path, frequent: list[int], likely: np.ndarray) -> Translator:
    shortlist = Shortlist(torch.tensor(frequent), torch.from_numpy(likely), loaded.tokenizer)
    save_shortlist(shortlist, folder)
    return Translator(dataclasses.replace(loaded, folder=folder))


def _likely(tokenizer: Tokenizer, count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(4, tokenizer.target_size, size=(tokenizer.source_size, count))


@pytest.fixture
def biased(loaded: LoadedModel) -> LoadedModel:
    """A model of the form that adds a learnt number to the score of each class."""
    config = dataclasses.replace(loaded.config, model=dataclasses.replace(loaded.config.model, output_bias=True))
    model = build_model(config, loaded.tokenizer)
    bias = torch.randn(loaded.tokenizer.target_size, generator=torch.Generator().manual_seed(3))
    bias[[loaded.tokenizer.pad_id, loaded.tokenizer.begin_id]] = -1e9  # which no shortlist holds
    model.load_state_dict(loaded.model.state_dict() | {"output_bias": bias})
    return dataclasses.replace(loaded, origin=model.eval(), config=config)


def test_the_bias_of_the_output_takes_part(biased: LoadedModel, tmp_path: Path) -> None:
    """With a shortlist of everything the outputs are those without, and others than without a bias."""
    everything = list(range(biased.tokenizer.target_size))
    translator = _translator(biased, tmp_path, everything, np.full((biased.tokenizer.source_size, 1), 5))
    without = [each["tokens"] for each in translator.translate(LINES)]
    assert [each["tokens"] for each in translator.translate(LINES, shortlist=True)] == without
    with torch.no_grad():
        translator.loaded.model.output_bias.zero_()
    assert [each["tokens"] for each in translator.translate(LINES, shortlist=True)] != without


@pytest.mark.parametrize(
    "options", [{"beam": 1}, {"beam": 4, "nbest": 4}, {"beam": 12}, {"beam": 3, "no_repeat_ngram": 1}], ids=str
)
def test_a_shortlist_that_holds_everything_changes_nothing(
    biased: LoadedModel, tmp_path: Path, options: dict[str, Any]
) -> None:
    everything = list(range(biased.tokenizer.target_size))
    translator = _translator(biased, tmp_path, everything, np.full((biased.tokenizer.source_size, 1), 5))
    without = list(translator.translate(LINES, **options))
    for mine, theirs in zip(translator.translate(LINES, shortlist=True, **options), without, strict=True):
        assert mine["tokens"] == theirs["tokens"]
        one, other = ([each["tokens"] for each in record.get("nbest", [])] for record in (mine, theirs))
        assert one == other
        assert mine["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_only_the_sentences_own_pieces_are_written_whatever_its_batch(loaded: LoadedModel, tmp_path: Path) -> None:
    tokenizer = loaded.tokenizer
    likely = _likely(tokenizer, 3)
    translator = _translator(loaded, tmp_path, [10, 11, 12], likely)
    together = list(translator.translate(LINES, beam=3, shortlist=True))
    pieces = tokenizer.target_pieces(range(tokenizer.target_size))
    for line, record, source in zip(LINES, together, tokenizer.encode_source(LINES)):
        allowed = {pieces[number] for number in {10, 11, 12, tokenizer.end_id, *likely[source].flatten().tolist()}}
        assert set(record["tokens"]) <= allowed
        (alone,) = translator.translate([line], beam=3, shortlist=True)
        assert alone["tokens"] == record["tokens"]
        assert alone["score"] == pytest.approx(record["score"], abs=1e-4)
    assert len({tuple(record["tokens"]) for record in together}) > 2


def test_scores_are_those_of_the_whole_vocabulary(loaded: LoadedModel, tmp_path: Path) -> None:
    translator = _translator(loaded, tmp_path, [10, 11, 12], _likely(loaded.tokenizer, 3))
    sources = loaded.tokenizer.encode_source(LINES)
    pieces = loaded.tokenizer.target_pieces(range(loaded.tokenizer.target_size))
    ids = {piece: number for number, piece in enumerate(pieces)}
    for source, record in zip(sources, translator.translate(LINES, beam=3, nbest=3, shortlist=True)):
        if len(source) > 1:
            outputs = record["nbest"]
            tokens = [[ids[piece] for piece in output["tokens"]] for output in outputs]
            for output, forced in zip(outputs, score_pairs(loaded, [source] * len(tokens), tokens)):
                assert output["log_probs"] == pytest.approx(forced.log_probs.tolist(), abs=1e-4)
                assert output["score"] == pytest.approx(forced.total / len(forced.log_probs), abs=1e-4)
            assert [output["score"] for output in outputs] == sorted((each["score"] for each in outputs), reverse=True)


def test_what_is_learnt_is_loaded_again(loaded: LoadedModel, tmp_path: Path) -> None:
    tokenizer = loaded.tokenizer
    with create_store(tmp_path / "store", with_text=False) as writer:
        ids = tokenizer.encode_source(LINES)
        writer.write(ids, tokenizer.encode_target(LINES), [0] * len(ids))
    learnt = learn_shortlist(open_store(tmp_path / "store"), tokenizer, 5, 2)
    assert len(set(learnt.frequent.tolist())) == 5 and tokenizer.end_id in learnt.frequent
    assert learnt.likely[:, 0].tolist() == list(range(tokenizer.source_size)), "one vocabulary: pieces can be copied"
    save_shortlist(learnt, tmp_path)
    again = load_shortlist(dataclasses.replace(loaded, folder=tmp_path))
    assert torch.equal(again.frequent, learnt.frequent) and torch.equal(again.likely, learnt.likely)


def test_a_missing_broken_or_foreign_file_is_told_in_one_line(loaded: LoadedModel, tmp_path: Path) -> None:
    translator = _translator(loaded, tmp_path, [10], _likely(loaded.tokenizer, 1))
    whole = (tmp_path / FILE).read_bytes()
    for content, said in (
        (None, "No such file"),
        (whole[:-9], "broken"),
        (b"", "broken"),
        (whole.replace(loaded.tokenizer.fingerprint.encode(), b"0" * len(loaded.tokenizer.fingerprint)), "another"),
    ):
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        if content is not None:
            (tmp_path / FILE).write_bytes(content)
        with pytest.raises(UserError, match=said) as error:
            list(Translator(translator.loaded).translate(LINES, shortlist=True))
        told = str(error.value)
        assert "\n" not in told and FILE in told and "make it again: shortlist" in told


def test_a_flipped_bit_anywhere_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    folder = dataclasses.replace(loaded, folder=tmp_path)
    _translator(loaded, tmp_path, [10], _likely(loaded.tokenizer, 1))
    whole = (tmp_path / FILE).read_bytes()
    tensors = 8 + int.from_bytes(whole[:8], "little")
    for place in (0, 5, tensors // 2, tensors, tensors + 4, len(whole) - 1):
        (tmp_path / FILE).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError, match="make it again: shortlist"):
            load_shortlist(folder)


@pytest.mark.parametrize("frequent", [[-5], [10**6], [[10]], [10.0]])
def test_ids_outside_the_vocabulary_are_refused(loaded: LoadedModel, tmp_path: Path, frequent: list[Any]) -> None:
    likely = torch.from_numpy(_likely(loaded.tokenizer, 1)).int()
    facts = {"tokenizer": loaded.tokenizer.fingerprint}  # and no digest, as an earlier version wrote it
    folder = dataclasses.replace(loaded, folder=tmp_path)
    for wrong in (likely[1:], likely[:, 0], likely.clone().fill_(-5), likely.clone().fill_(10**6)):
        save_file({"frequent": torch.tensor([10]).int(), "likely": wrong.contiguous()}, tmp_path / FILE, facts)
        with pytest.raises(UserError, match="holds other than ids"):
            load_shortlist(folder)
    first = torch.tensor(frequent)
    save_file(
        {"frequent": first if first.is_floating_point() else first.int(), "likely": likely}, tmp_path / FILE, facts
    )
    with pytest.raises(UserError, match="holds other than ids"):
        load_shortlist(folder)


@pytest.mark.parametrize("options", [{"temperature": 0.5}, {"sample": True}], ids=str)
def test_what_needs_the_whole_vocabulary_is_refused(translator: Translator, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        translator.translate(LINES, shortlist=True, **options)
