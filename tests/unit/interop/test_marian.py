"""Marian models: imported and exported ones give the tokens and scores that Hugging Face's library gives."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import load_file, save_file

from mt.cli import import_marian
from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.config_file import search_config
from mt.corpus.tokenizer import load_tokenizer, train_tokenizer
from mt.decoding.scoring import score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.interop.marian_export import export_marian
from mt.interop.marian_import import read_marian
from mt.model.directory import LoadedModel, build_model, load_model, save_model

transformers = pytest.importorskip("transformers")

Tensors = dict[str, torch.Tensor]

WORDS = ["der", "hund", "sieht", "einen", "kleinen", "ball", "und", "die", "frau", "liest", "am", "fluss", "straße"]


def some_lines(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


def sentencepiece_model(seed: int, size: int) -> bytes:
    """As Marian's: no padding, its own order of special pieces."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(some_lines(300, seed)),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    return model.getvalue()


def pieces_of(model: bytes) -> list[str]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [processor.id_to_piece(number) for number in range(processor.get_piece_size())]


@pytest.fixture
def marian_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder such as OPUS-MT's with random weights; keyword arguments go to its config."""

    def make(form: str = "safetensors", **changes: Any) -> Path:
        source, target = sentencepiece_model(1, 60), sentencepiece_model(2, 50)
        ordinary = sorted({*pieces_of(source), *pieces_of(target)} - {"<unk>", "<s>", "</s>"})
        more = [">>fra<<", "▁Baum", "▁am▁See"]  # in the vocabulary alone; three pieces are not in it
        pieces = ["</s>", "<unk>", *more, *ordinary[3:], "<pad>"]
        last = len(pieces) - 1
        config = transformers.MarianConfig(
            **{
                "vocab_size": len(pieces),
                "d_model": 32,
                "encoder_layers": 2,
                "decoder_layers": 1,
                "encoder_ffn_dim": 48,
                "decoder_ffn_dim": 40,
                "encoder_attention_heads": 4,
                "decoder_attention_heads": 2,
                "pad_token_id": last,
                "decoder_start_token_id": last,
                "eos_token_id": 0,
                "forced_eos_token_id": 0,
                "scale_embedding": True,
                "activation_function": "swish",
                "init_std": 0.15,
                "max_position_embeddings": 128,
                **changes,
            }
        )
        torch.manual_seed(3)
        model = transformers.MarianMTModel(config).eval()
        with torch.no_grad():
            model.final_logits_bias.normal_()
        folder = tmp_path / "marian"
        if form == "safetensors":
            model.save_pretrained(folder)
        else:
            folder.mkdir()
            config.save_pretrained(folder)
            torch.save(model.state_dict(), folder / "pytorch_model.bin")
        (folder / "source.spm").write_bytes(source)
        (folder / "target.spm").write_bytes(target)
        (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
        languages = {"source_lang": "deu", "target_lang": "eng"}
        (folder / "tokenizer_config.json").write_text(json.dumps(languages))
        return folder

    return make


def imported(folder: Path, tmp_path: Path) -> LoadedModel:
    """Through a model directory on disk, as the command does it."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", *read_marian(folder), {"step": 0})
    return load_model(tmp_path / "model", "cpu")


def random_pairs(size: int, special: set[int], end: int) -> tuple[list[list[int]], list[list[int]]]:
    generator = np.random.default_rng(4)
    ordinary = np.array([number for number in range(size) if number not in special])

    def draw() -> list[list[int]]:
        return [[*generator.choice(ordinary, length).tolist(), end] for length in (1, 3, 7, 12, 30)]

    return draw(), draw()


def their_log_probs(model: Any, source: list[int], target: list[int]) -> np.ndarray:
    begin = torch.tensor([[model.config.decoder_start_token_id, *target[:-1]]])
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=begin).logits[0]
    return logits.log_softmax(-1)[torch.arange(len(target)), torch.tensor(target)].numpy()


def assert_scores_agree(loaded: LoadedModel, model: Any) -> None:
    tokenizer = loaded.tokenizer
    special = {tokenizer.pad_id, tokenizer.begin_id, tokenizer.end_id}
    sources, targets = random_pairs(min(tokenizer.source_size, tokenizer.target_size), special, tokenizer.end_id)
    ours = score_pairs(loaded, sources, targets)
    for source, target, scores in zip(sources, targets, ours):
        np.testing.assert_allclose(scores.log_probs, their_log_probs(model, source, target), atol=2e-4, rtol=0)


def assert_translations_agree(loaded: LoadedModel, model: Any, beam: int) -> None:
    """Greedy outputs are equal. Of a beam, theirs have our scores and ours are as good: the two stop by other rules."""
    tokenizer, decode = loaded.tokenizer, loaded.config.decode
    sources = tokenizer.encode_source(some_lines(4, 9))
    options = search_config(decode, beam=beam, length_penalty="none", length_alpha=1.0, batch_tokens=600)
    found = TorchEngine(loaded).search(sources, options)
    forbidden = [[number] for number in {tokenizer.pad_id, tokenizer.begin_id}]
    for ids, hypotheses in zip(sources, found):
        limit = int(decode.max_length_ratio * len(ids)) + decode.max_length_extra
        output = model.generate(
            torch.tensor([ids]),
            num_beams=beam,
            length_penalty=0.0,
            max_length=limit + 1,
            bad_words_ids=forbidden,
            return_dict_in_generate=True,
            output_scores=True,
            do_sample=False,
        )
        theirs = [number for number in output.sequences[0].tolist()[1:] if number != tokenizer.pad_id]
        if beam == 1:
            assert hypotheses[0].tokens == theirs
        elif len(theirs) < limit:  # at the limit they end for nothing, we at the probability of ending
            score = output.sequences_scores[0].item()
            assert score == pytest.approx(next(score_pairs(loaded, [ids], [theirs])).total, abs=1e-3)
            assert hypotheses[0].score >= score - 1e-3


@pytest.mark.parametrize(
    ("form", "changes"),
    [
        ("safetensors", {}),
        ("bin", {}),
        ("bin", {"scale_embedding": False}),
        ("bin", {"activation_function": "gelu"}),
        ("safetensors", {"tie_word_embeddings": False}),
        ("safetensors", {"share_encoder_decoder_embeddings": False}),
    ],
    ids=str,
)
def test_an_imported_model_gives_their_scores(
    marian_folder: Callable[..., Path], tmp_path: Path, form: str, changes: dict[str, Any]
) -> None:
    folder = marian_folder(form, **changes)
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    assert_scores_agree(imported(folder, tmp_path), theirs)


@pytest.mark.parametrize("beam", [1, 4])
def test_an_imported_model_gives_their_translations(
    marian_folder: Callable[..., Path], tmp_path: Path, beam: int
) -> None:
    folder = marian_folder()
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    assert_translations_agree(imported(folder, tmp_path), theirs, beam)


@pytest.mark.filterwarnings("ignore:Recommended")
def test_an_imported_tokeniser_gives_their_ids(marian_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = marian_folder()
    theirs = transformers.MarianTokenizer.from_pretrained(folder)
    ours = imported(folder, tmp_path).tokenizer
    lines = [*some_lines(30, 5), "xyz 日本", ">>fra<< der hund", ">>xxx<< der", ">> <<"]
    ids = ours.encode_source(lines)
    assert ids[:-2] == theirs(lines).input_ids[:-2]
    assert [ours.unknown_id in each for each in ids[-4:]] == [True, False, True, True]
    targets = ours.encode_target(lines[:30])
    assert targets == theirs(text_target=lines[:30]).input_ids
    known = [each for each in targets if ours.unknown_id not in each]
    assert len(known) > 5
    pieces = list(range(2, ours.target_size - 1))  # target.spm lacks many of them
    for each in (*known, pieces, *([number] for number in pieces), *itertools.pairwise(pieces)):
        assert ours.decode_target(each) == theirs.decode(each, skip_special_tokens=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "tanh"}, "'tanh' - at `\\$.activation_function`"),
        ({"model_type": "bart"}, "'bart' - at `\\$.model_type`.*give the whole folder of a Marian model"),
        ({"normalize_before": True}, "normalize_before is true"),
        ({"d_model": None}, "d_model"),
        ({"vocab_size": 20}, "vocab_size is 20, the weights have "),
    ],
    ids=str,
)
def test_what_cannot_be_imported_is_one_line(
    marian_folder: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    folder = marian_folder()
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    with pytest.raises(UserError, match=message):
        read_marian(folder)


WRONG = [None, [], -1, 10**9, 10**400, True, "NaN"]
KEYS = {
    "config.json": [
        *("model_type", "vocab_size", "d_model", "encoder_layers", "encoder_attention_heads", "activation_function"),
        *("dropout", "share_encoder_decoder_embeddings", "pad_token_id", "eos_token_id", "decoder_start_token_id"),
    ],
    "generation_config.json": ["num_beams", "length_penalty", "early_stopping"],
    "tokenizer_config.json": ["source_lang"],
    "vocab.json": ["</s>", "<unk>"],
}
# What is as good as absent, as it was, or another valid choice.
TAKEN = {
    ("config.json", "share_encoder_decoder_embeddings", "True"),
    *(("generation_config.json", name, "None") for name in KEYS["generation_config.json"]),
    ("generation_config.json", "early_stopping", "True"),
    *(("tokenizer_config.json", "source_lang", each) for each in ("None", "NaN")),
}


def test_wrong_values_are_one_line_that_names_the_file(marian_folder: Callable[..., Path]) -> None:
    folder = marian_folder()
    taken = set()
    for name, keys in KEYS.items():
        path = folder / name
        text = path.read_text() if path.exists() else "{}"
        for key, value in itertools.product(keys, WRONG):
            path.write_text(json.dumps({**json.loads(text), key: value}))
            try:
                read_marian(folder)
                taken.add((name, key, str(value)))
            except UserError as error:
                assert str(error).startswith(f"{folder}"), (name, key, value)
                assert name in str(error), (name, key, value)
        path.write_text(text)
    assert taken == TAKEN


DEEP = '{"a":' * 2000 + "1" + "}" * 2000
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", DEEP, r"config\.json: not as expected"),
        ("vocab.json", DEEP, r"vocab\.json: not as expected"),
        ("generation_config.json", "[" * 2000, r"generation_config\.json: not as expected"),
        ("vocab.json", '{"</s>": 0, "<unk>": 1, "a": 2, "b": 2}', "'a' and 'b' both have id 2"),
        ("vocab.json", '{"</s>": 0, "<unk>": 1, "a": 1000}', "'a' has id 1000, the model has"),
        ("vocab.json", '{"</s>": 3, "<unk>": 1}', "</s> has id 3, in config.json 0"),
        ("vocab.json", '{"</s>": 0}', "has no piece <unk>"),
        ("source.spm", "", r"source\.spm or target\.spm is empty"),
        ("source.spm", None, r"source\.spm: cannot be read"),
        ("target.spm", "x", r"target\.spm.*not a SentencePiece model"),
        ("target.spm", POINTER, r"target\.spm: is a Git LFS pointer"),
        ("vocab.json", POINTER, r"vocab\.json: is a Git LFS pointer"),
        ("model.safetensors", POINTER, r"model\.safetensors: is a Git LFS pointer"),
        ("model.safetensors", None, "holds neither"),
    ],
)
def test_a_broken_file_is_named(
    marian_folder: Callable[..., Path], name: str, content: str | None, message: str
) -> None:
    path = marian_folder() / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=message):
        read_marian(path.parent)


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


FIRST = "model.encoder.layers.0.fc1.weight"
QUERY, KEY = (f"model.decoder.layers.0.self_attn.{name}_proj.weight" for name in "qk")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without(FIRST), f"lack {FIRST}"),
        (without(QUERY), f"lack {QUERY}"),
        (changed(FIRST, lambda tensor: tensor.fill_(math.nan)), f"{FIRST} holds values that are no finite numbers"),
        (changed(FIRST, lambda tensor: tensor.double() * 1e300), f"{FIRST} holds values that are no finite numbers"),
        (changed(FIRST, lambda tensor: tensor.long()), f"{FIRST} is no vector or matrix of fractions"),
        (changed(FIRST, lambda tensor: tensor.sum()), f"{FIRST} is no vector or matrix of fractions"),
        (changed(FIRST, lambda tensor: tensor[:0]), f"{FIRST} is no vector or matrix of fractions"),
        (changed(FIRST, lambda tensor: tensor[:-1]), "encoder_ffn_dim is 48, the weights have 47"),
        (changed(FIRST, lambda tensor: tensor[:, :-1]), r"has shape \(48, 31\)"),
        (changed(QUERY, lambda tensor: tensor[:-1]), "different shapes"),
        (changed("model.shared.weight", lambda tensor: tensor[:-1]), r"vocab_size is (\d+), the weights have (?!\1)\d"),
        (changed("model.shared.weight", lambda tensor: tensor[:, :-2]), "d_model is 32, the weights have 30"),
        (lambda tensors: tensors.update({"more": torch.zeros(3)}), "more, which is no part of a Marian model"),
        (
            lambda tensors: tensors.update({FIRST.replace("0", "2"): torch.zeros(48, 32)}),
            "encoder_layers is 2, the weights have 3",
        ),
    ],
)
def test_weights_that_are_not_those_of_the_config_are_named(
    marian_folder: Callable[..., Path], damage: Callable[[Tensors], object], message: str
) -> None:
    folder = marian_folder()
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=message):
        read_marian(folder)


@pytest.mark.parametrize("content", [[torch.zeros(2)], torch.zeros(2), None, {"model": {}}], ids=repr)
def test_a_torch_file_of_another_form_is_refused_without_advice_to_unpickle(
    marian_folder: Callable[..., Path], content: Any
) -> None:
    path = marian_folder("bin") / "pytorch_model.bin"
    torch.save(content, path)
    with pytest.raises(UserError, match=r"pytorch_model\.bin|lack") as caught:
        read_marian(path.parent)
    assert "weights_only" not in str(caught.value)
    path.write_text(POINTER)
    with pytest.raises(UserError, match=r"pytorch_model\.bin: is a Git LFS pointer"):
        read_marian(path.parent)


def test_weights_in_several_files_are_told_how_to_become_one(marian_folder: Callable[..., Path]) -> None:
    folder = marian_folder()
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="in several files; save them as one"):
        read_marian(folder)


def test_an_imported_model_that_cannot_translate_does_not_appear(
    marian_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = marian_folder()
    assert import_marian.main([str(folder), "--output", str(tmp_path / "good")]) == 0
    assert load_model(tmp_path / "good", "cpu").config.model.width == 32

    def fails(*_: Any, **__: Any) -> Any:
        raise UserError("no output")

    monkeypatch.setattr(TorchEngine, "search", fails)
    with pytest.raises(UserError, match="no output"):
        import_marian.main([str(folder), "--output", str(tmp_path / "bad")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good", "marian"]


def test_a_pickle_is_not_run(marian_folder: Callable[..., Path], tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "attacked",))

    folder = marian_folder("bin")
    torch.save({"weight": Attack()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        read_marian(folder)
    assert not (tmp_path / "attacked").exists()


def test_learnt_positions_are_refused(marian_folder: Callable[..., Path]) -> None:
    folder = marian_folder("bin")
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    tensors["model.encoder.embed_positions.weight"][5, 3] += 0.1
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model\.encoder\.embed_positions"):
        read_marian(folder)


MODEL = ModelConfig(
    width=32,
    encoder_layers=2,
    decoder_layers=1,
    encoder_heads=4,
    decoder_heads=2,
    encoder_feed_forward=48,
    decoder_feed_forward=40,
    norm="post",
    positions="sinusoidal_half",
)


def our_model(folder: Path, joint: bool = True, **changes: Any) -> LoadedModel:
    """A model directory with random weights."""
    unused = CorpusConfig(files=["unused.tsv"])
    config = Config(
        run_dir="unused",
        model=dataclasses.replace(MODEL, **changes),
        train=TrainConfig(max_steps=1),
        data=DataConfig(source_language="de", target_language="en", train=[unused], valid=[unused]),
        tokenizer=TokenizerConfig(vocabulary_size=70, joint=joint),
        decode=DecodeConfig(max_length=60),
    )
    tokenizer = train_tokenizer(config.tokenizer, some_lines(200, 1), some_lines(200, 2))
    torch.manual_seed(6)
    model = build_model(config, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder.mkdir()
    save_model(folder, model, tokenizer, config, {"step": 0})
    return load_model(folder, "cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"output_bias": True},
        {"positions": "sinusoidal"},
        {"activation": "gelu", "tie": "target"},
        {"activation": "silu", "tie": "none", "joint": False},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Recommended")
def test_an_exported_model_gives_our_scores_and_comes_back(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = our_model(tmp_path / "ours", **changes)
    folder = tmp_path / "exported"
    folder.mkdir()
    export_marian(loaded, folder)
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    assert_scores_agree(loaded, theirs)
    assert_translations_agree(loaded, theirs, 1)
    lines = some_lines(20, 7)
    their_tokenizer = transformers.MarianTokenizer.from_pretrained(folder)
    assert their_tokenizer(lines).input_ids == loaded.tokenizer.encode_source(lines)
    assert their_tokenizer(text_target=lines).input_ids == loaded.tokenizer.encode_target(lines)
    back = imported(folder, tmp_path)
    assert_scores_agree(back, theirs)
    assert back.tokenizer.encode_target(lines) == loaded.tokenizer.encode_target(lines)
    ids = loaded.tokenizer.encode_target(lines)[0]
    assert back.tokenizer.decode_target(ids) == loaded.tokenizer.decode_target(ids)


@pytest.mark.parametrize(("stop", "beam"), [("first_beam", 1), ("first_beam", 5), ("no_gain", 5), ("exact", 5)])
def test_their_generate_gives_our_translations_without_being_told_how(tmp_path: Path, stop: str, beam: int) -> None:
    loaded = our_model(tmp_path / "ours", output_bias=True)
    with torch.no_grad():  # such that outputs of random weights end, and differ from rule to rule
        loaded.model.output_bias[loaded.tokenizer.end_id] += 2.0
    limits = {"min_length": 4, "no_repeat_ngram": 3, "max_length_ratio": 0.0, "max_length_extra": 60}
    decode = dataclasses.replace(loaded.config.decode, stop=stop, beam=beam, **limits)
    loaded = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, decode=decode))
    folder = tmp_path / "exported"
    folder.mkdir()
    export_marian(loaded, folder)
    theirs = transformers.MarianMTModel.from_pretrained(folder).eval()
    sources = loaded.tokenizer.encode_source(some_lines(12, 9))
    ours = [each[0].tokens for each in TorchEngine(loaded).search(sources, search_config(decode))]
    assert [theirs.generate(torch.tensor([ids]))[0].tolist()[1:] for ids in sources] == ours
    lengths = [len(tokens) for tokens in ours]
    assert len(set(lengths)) > 2 and max(lengths) < 60  # an output that is cut off ends at no cost there


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "pre"}, "model.norm is pre"),
        ({"activation": "swiglu"}, "model.activation is swiglu"),
        ({"positions": "rotary"}, "model.positions is rotary"),
    ],
)
def test_forms_that_marian_lacks_are_refused_by_their_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export_marian(our_model(tmp_path / "ours", **changes), tmp_path)


def test_a_new_field_of_the_config_is_refused_by_its_name(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class MoreForms(ModelConfig):
        experts: int = 0

    loaded = our_model(tmp_path / "ours")
    more = MoreForms(**dataclasses.asdict(loaded.config.model), experts=4)
    changed = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, model=more))
    with pytest.raises(UserError, match=r"model\.experts is 4: Marian cannot express it; use --format ctranslate2"):
        export_marian(changed, tmp_path)


def test_an_imported_vocabulary_that_is_damaged_is_one_line(marian_folder: Callable[..., Path], tmp_path: Path) -> None:
    imported(marian_folder(), tmp_path)
    path = tmp_path / "model" / "vocabulary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "pad": 10**6}))
    with pytest.raises(UserError, match=r"vocabulary\.json.*special ids lie outside"):
        load_tokenizer(tmp_path / "model")
