"""The CTranslate2 engine gives what our own search gives, or says why it cannot."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from mt.config import SearchConfig
from mt.decoding.scoring import score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.interop import ctranslate2_engine
from mt.interop.ctranslate2_engine import CTranslate2Engine, cached_export, choose_device
from mt.interop.ctranslate2_export import CannotHonour, export_ctranslate2
from mt.model.directory import LoadedModel

ctranslate2 = pytest.importorskip("ctranslate2")

OPTIONS = SearchConfig(beam=1, batch_tokens=600, max_length_ratio=1.0, max_length_extra=8)  # as `loaded` has them


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def some_sources(loaded: LoadedModel, count: int) -> list[list[int]]:
    generator = random.Random(3)
    end = loaded.tokenizer.end_id
    return [
        [*generator.choices(range(4, loaded.tokenizer.source_size), k=generator.randint(1, 12)), end]
        for _ in range(count)
    ]


def test_greedy_outputs_are_ours(loaded: LoadedModel) -> None:
    sources = some_sources(loaded, 30)
    theirs = CTranslate2Engine(loaded, 2).search(sources, OPTIONS)
    ours = TorchEngine(loaded).search(sources, OPTIONS)
    assert [[each.tokens for each in found] for found in theirs] == [[each.tokens for each in found] for found in ours]
    assert len(theirs) == 30


def test_the_library_itself_gives_our_translations_of_pieces_as_sentencepiece_cuts_them(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    export_ctranslate2(loaded, tmp_path)
    loaded.tokenizer.save(tmp_path)
    generator = random.Random(7)
    lines = [" ".join(generator.choices(["hund", "ball", "liest", "am", "fluss"], k=1 + n % 9)) for n in range(20)]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    translator = ctranslate2.Translator(str(tmp_path), intra_threads=1)
    found = translator.translate_batch(
        processor.encode(lines, out_type=str),
        beam_size=1,
        max_decoding_length=12,
        suppress_sequences=[["<pad>"], ["<s>"]],  # which only random weights write
    )
    options = dataclasses.replace(OPTIONS, min_length=2, max_output=13, max_length_extra=20)  # its limits: 1 and 12
    ours = TorchEngine(loaded).search(loaded.tokenizer.encode_source(lines), options)
    assert [each.hypotheses[0] for each in found] == [
        loaded.tokenizer.target_pieces(each[0].tokens[:-1]) for each in ours
    ]


@pytest.mark.parametrize("changes", [{"min_length": 9}, {"max_output": 5}, {"no_repeat_ngram": 2}], ids=str)
def test_limits_and_blocked_repetitions_are_ours(loaded: LoadedModel, changes: dict[str, int]) -> None:
    options = dataclasses.replace(OPTIONS, **changes)
    sources = some_sources(loaded, 30)
    theirs, ours = (engine.search(sources, options) for engine in (CTranslate2Engine(loaded, 1), TorchEngine(loaded)))
    assert [each[0].tokens for each in theirs] == [each[0].tokens for each in ours]


def test_an_output_that_runs_to_its_limit_does_not_depend_on_longer_lines_of_its_batch(loaded: LoadedModel) -> None:
    options = dataclasses.replace(OPTIONS, beam=4, batch_tokens=4000, min_length=7, max_length_extra=1)  # all run to it
    engine, sources = CTranslate2Engine(loaded, 1), some_sources(loaded, 60)
    together = engine.search(sources, options)
    assert [each[0].tokens for each in together] == [engine.search([ids], options)[0][0].tokens for ids in sources]
    assert sum(len(each[0].tokens) == options.longest_output(len(ids)) for each, ids in zip(together, sources)) > 30


@pytest.mark.parametrize(("penalty", "alpha"), [("none", 1.0), ("average", 1.0), ("average", 0.5)])
def test_scores_are_those_of_a_forced_pass_and_sorted(loaded: LoadedModel, penalty: str, alpha: float) -> None:
    options = dataclasses.replace(OPTIONS, beam=4, nbest=3, length_penalty=penalty, length_alpha=alpha)
    sources = some_sources(loaded, 8)
    forbidden = {loaded.tokenizer.pad_id, loaded.tokenizer.begin_id}
    for source, found in zip(sources, CTranslate2Engine(loaded, 1).search(sources, options)):
        assert 1 <= len({tuple(each.tokens) for each in found}) == len(found) <= 3
        assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)
        limit = int(loaded.config.decode.max_length_ratio * len(source)) + loaded.config.decode.max_length_extra
        for each in found:
            assert len(each.tokens) <= limit
            assert each.tokens[-1] == loaded.tokenizer.end_id
            assert not forbidden & set(each.tokens)
            forced = next(score_pairs(loaded, [source], [each.tokens]))
            np.testing.assert_allclose(each.log_probs, forced.log_probs, atol=1e-4)
            divisor = 1.0 if penalty == "none" else len(each.tokens) ** alpha
            assert each.score == pytest.approx(forced.total / divisor, abs=1e-4)


def test_without_token_scores_there_is_no_forced_pass(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = CTranslate2Engine(loaded, 1)
    sources = some_sources(loaded, 5)
    with_scores = engine.search(sources, OPTIONS)
    monkeypatch.setattr("mt.decoding.scoring.forced_hypotheses", None)
    found = engine.search(sources, dataclasses.replace(OPTIONS, token_scores=False))
    assert [each[0].tokens for each in found] == [each[0].tokens for each in with_scores]
    assert all(len(each[0].log_probs) == 0 and each[0].score < 0 for each in found)


def test_an_export_is_made_once_and_checked_once(
    loaded: LoadedModel, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = CTranslate2Engine(loaded, 1)
    assert caches in engine.folder.parents
    sources = some_sources(loaded, 5)
    engine.search(sources, OPTIONS)
    facts = json.loads((engine.folder / f"checked-{ctranslate2.__version__}-cpu-float32.json").read_text())
    assert (facts["sentences"], facts["equal"]) == (5, 5)
    monkeypatch.setattr(ctranslate2_engine, "export_ctranslate2", None)
    monkeypatch.setattr(CTranslate2Engine, "check", None)
    CTranslate2Engine(loaded, 1).search(sources, OPTIONS)


@pytest.mark.parametrize("name", ["model.bin", "config.json", "files.json", "shared_vocabulary.json"])
@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_export_is_made_anew_with_a_line(
    loaded: LoadedModel, name: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = cached_export(loaded) / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :]
    path.unlink() if damage == "missing" else path.write_bytes(flipped if damage == "flipped" else whole[:middle])
    capsys.readouterr()
    assert cached_export(loaded) == path.parent
    assert path.read_bytes() == whole
    assert capsys.readouterr().err == f"{path.parent}: this export was damaged; it has been made anew\n"


def test_of_several_who_need_an_export_at_once_one_makes_it(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def export(loaded: LoadedModel, folder: Path) -> None:
        made.append(folder)
        time.sleep(0.05)
        export_ctranslate2(loaded, folder)

    monkeypatch.setattr(ctranslate2_engine, "export_ctranslate2", export)
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(cached_export, [loaded] * 4))) == len(made) == 1


def test_an_export_that_was_killed_leaves_nothing_half_made(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(loaded: LoadedModel, folder: Path) -> None:
        export_ctranslate2(loaded, folder)
        (folder / "config.json").unlink()
        os._exit(9)

    if not (child := os.fork()):
        monkeypatch.setattr(ctranslate2_engine, "export_ctranslate2", killed)
        cached_export(loaded)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    folder = cached_export(loaded)
    assert (folder / "config.json").is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "lock"])


def test_a_writable_model_directory_keeps_its_export(loaded: LoadedModel, tmp_path: Path, caches: Path) -> None:
    here = dataclasses.replace(loaded, folder=tmp_path)
    assert cached_export(here).parent == tmp_path / "ctranslate2"
    assert not caches.exists()


def test_other_weights_make_another_export(loaded: LoadedModel) -> None:
    weight = loaded.model.target_embedding.weight.data
    before = cached_export(loaded)
    weight[5, 5] += 1.0
    try:
        assert cached_export(loaded) != before
    finally:
        weight[5, 5] -= 1.0


def test_a_gpu_that_ctranslate2_does_not_see_is_left_to_our_own_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    assert [choose_device(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 0)
    assert choose_device("cpu") == "cpu"
    for name in ("cuda", "cuda:1", "tpu"):
        with pytest.raises(CannotHonour, match=f"device {name}: CTranslate2 sees none"):
            choose_device(name)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path("/dev/nvidia0")]))
    with pytest.raises(CannotHonour, match="device cuda: CTranslate2 sees none"):
        choose_device("auto")


def test_an_export_that_disagrees_is_refused(loaded: LoadedModel) -> None:
    engine = CTranslate2Engine(loaded, 1)
    weight = loaded.model.output_weight.data  # now the loaded model is no longer what was exported
    weight.mul_(-1.0)
    try:
        with pytest.raises(UserError, match="do not agree with ours"):
            engine.search(some_sources(loaded, 5), OPTIONS)
    finally:
        weight.mul_(-1.0)


def test_options_that_it_cannot_honour_are_refused(loaded: LoadedModel) -> None:
    engine = CTranslate2Engine(loaded, 1)
    with pytest.raises(UserError, match="length_penalty is gnmt"):
        engine.search([], dataclasses.replace(OPTIONS, length_penalty="gnmt"))
    with pytest.raises(UserError, match="prefix: CTranslate2 cannot honour it"):
        engine.search([], OPTIONS, [])
    with pytest.raises(UserError, match="compute_type is int4: CTranslate2 has float32 and int8"):
        CTranslate2Engine(loaded, 1, "int4")


def test_an_option_that_it_does_not_know_is_refused(loaded: LoadedModel) -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class More(SearchConfig):
        novelty: int = 0

    engine = CTranslate2Engine(loaded, 1)
    given = {field.name: getattr(OPTIONS, field.name) for field in dataclasses.fields(OPTIONS)}
    assert engine.search([], More(**given)) == []
    with pytest.raises(UserError, match="novelty is 3: CTranslate2 cannot honour it"):
        engine.search([], More(**given, novelty=3))


def test_eight_bits_translate(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # Eight bits move the outputs of random weights as far as another processor's kernels do.
    monkeypatch.setitem(ctranslate2_engine._TOLERANCE, "int8", 10.0)
    found = CTranslate2Engine(loaded, 1, "int8").search(some_sources(loaded, 5), OPTIONS)
    assert [len(each) for each in found] == [1] * 5


def test_where_the_library_is_missing_the_command_that_installs_it_is_told(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(UserError, match="pip install ctranslate2"):
        CTranslate2Engine(loaded, 1)
