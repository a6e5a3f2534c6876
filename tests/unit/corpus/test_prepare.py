"""Preparation: cached by content, reproducible, and safe when interrupted or run twice at once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import random
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mt.corpus.epochs
import mt.corpus.prepare
import mt.corpus.store
from mt.config import CleaningConfig, Config, CorpusConfig, DataConfig, GrammarConfig, TokenizerConfig, TrainConfig
from mt.corpus.epochs import epoch_store
from mt.corpus.prepare import prepare
from mt.errors import UserError


def write_text(folder: Path, name: str, pairs: int, seed: int) -> None:
    generator = random.Random(seed)
    letters = "abcdefghijklmno"
    for language, case in (("de", str.lower), ("en", str.upper)):
        lines = [
            " ".join("".join(generator.choices(letters, k=4)) for _ in range(generator.randint(2, 8)))
            for _ in range(pairs)
        ]
        (folder / f"{name}.{language}").write_text("".join(case(line) + "\n" for line in lines))


def files(name: str, **options: Any) -> CorpusConfig:
    return CorpusConfig(source=[f"{name}.de"], target=[f"{name}.en"], **options)


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "data").mkdir()
    for seed, (name, pairs) in enumerate({"train": 300, "more": 100, "valid": 20, "test": 20}.items()):
        write_text(tmp_path / "data", name, pairs, seed)
    data = DataConfig(
        source_language="de",
        target_language="en",
        root=str(tmp_path / "data"),
        train=[files("train"), files("more")],
        valid=[files("valid")],
        test=[files("test")],
    )
    return Config(
        run_dir=str(tmp_path / "runs" / "first"),
        data=data,
        tokenizer=TokenizerConfig(algorithm="bpe", vocabulary_size=100),
        train=TrainConfig(max_epochs=1),
    )


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    """The config with fields of sections (data, tokenizer, train, cleaning) replaced."""
    if "cleaning" in sections:
        cleaning = dataclasses.replace(config.data.cleaning, **sections.pop("cleaning"))
        sections.setdefault("data", {})["cleaning"] = cleaning
    replaced = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in sections.items()}
    return dataclasses.replace(config, **replaced)


@pytest.fixture
def built(monkeypatch):
    """Counts how often something is really prepared."""
    calls = []
    build = mt.corpus.prepare._build
    monkeypatch.setattr(mt.corpus.prepare, "_build", lambda *given: calls.append(1) or build(*given))
    return calls


def test_stores_hold_the_encoded_text(config):
    prepared = prepare(config)
    assert (len(prepared.train), len(prepared.valid)) == (400, 20)
    root = Path(config.data.root)
    source = [*(root / "train.de").read_text().split("\n")[:-1], *(root / "more.de").read_text().split("\n")[:-1]]
    encoded = prepared.tokenizer.encode_source(source)
    assert [prepared.train.source(index).tolist() for index in range(400)] == encoded
    assert [line + "\n" for line in prepared.valid.texts("target", 0, 20)] == list((root / "valid.en").open())
    with pytest.raises(KeyError, match="source_text"):
        prepared.train.texts("source", 0, 1)
    assert prepared.train.weights is None
    assert prepared.folder.parent == Path(config.run_dir).parent / "cache"
    assert prepared.cleaning["read"] == prepared.cleaning["kept"] == 400
    assert [corpus["kept"] for corpus in prepared.cleaning["corpora"]] == [300, 100]


def test_the_same_input_is_prepared_once(config, built, monkeypatch):
    first = prepare(config)
    monkeypatch.setattr(mt.corpus.prepare, "read_pairs", _not_again)  # its text is not even read again
    second = prepare(changed(config, train={"batch_tokens": 999}, data={"cache": str(first.folder.parent)}))
    assert len(built) == 1
    assert second.folder == first.folder and second.fingerprints == first.fingerprints


def test_a_moved_corpus_is_found_in_the_cache(config, built):
    prepare(config)
    moved = Path(config.data.root).with_name("elsewhere")
    Path(config.data.root).rename(moved)
    prepare(changed(config, data={"root": str(moved)}))
    assert len(built) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer": {"vocabulary_size": 90}},
        {"tokenizer": {"algorithm": "unigram"}},
        {"tokenizer": {"sampling": 0.1}},
        {"cleaning": {"duplicate": True}},
        {"data": {"train": [files("train")]}},
        {"data": {"train": [files("more"), files("train")]}},
        {"data": {"test": []}},
        {"data": {"valid": [files("test")]}},
    ],
)
def test_another_option_is_prepared_anew(config, built, change):
    first = prepare(config)
    second = prepare(changed(config, **change))
    assert len(built) == 2 and second.fingerprints != first.fingerprints


@pytest.mark.parametrize("name", ["train.de", "train.en", "valid.en", "test.de"])
def test_changed_content_is_prepared_anew(config, built, name):
    first = prepare(config)
    path = Path(config.data.root) / name
    path.write_text(path.read_text().replace("a", "b", 1).replace("A", "B", 1))
    assert prepare(config).fingerprints != first.fingerprints
    assert len(built) == 2


def test_weights_and_the_sampling_strength_are_not_part_of_the_key(config, built):
    sampled = changed(config, tokenizer={"sampling": 0.1})
    prepare(sampled)
    prepared = prepare(
        changed(sampled, tokenizer={"sampling": 0.2}, data={"train": [files("train"), files("more", weight=2.5)]})
    )
    assert len(built) == 1
    assert prepared.train.weights.tolist() == [1.0] * 300 + [2.5] * 100


def test_held_out_pairs_are_dropped_and_counted(config, tmp_path):
    for language in ("de", "en"):
        lines = [(tmp_path / "data" / f"{name}.{language}").read_text() for name in ("more", "test", "valid")]
        (tmp_path / "data" / f"more.{language}").write_text("".join(lines))
    cleaning = prepare(config).cleaning
    assert cleaning["rules"]["overlap"]["dropped"] == 40
    assert (cleaning["read"], cleaning["kept"]) == (440, 400)
    kept = prepare(changed(config, cleaning={"overlap": False})).cleaning
    assert kept["kept"] == 440


def test_pairs_with_too_many_tokens_are_counted(config, built):
    everything = prepare(config).cleaning
    prepared = prepare(changed(config, train={"max_length": 20}))
    assert len(built) == 1, "the limit applies when the store is opened"
    longest = np.maximum(prepared.train.source_lengths, prepared.train.target_lengths)
    rule = prepared.cleaning["rules"]["too_many_tokens"]
    assert 0 < rule["dropped"] == (longest > 20).sum()
    assert prepared.cleaning["kept"] == everything["kept"] - rule["dropped"]
    first = int(np.flatnonzero(longest > 20)[0])
    lines = (Path(config.data.root) / "train.de").read_text().split("\n")
    assert rule["examples"][0][0] == lines[first]
    with pytest.raises(UserError, match="all 400 training pairs have more tokens"):
        prepare(changed(config, train={"max_length": 2}))


def test_empty_lines_of_the_validation_text_stay(config):
    root = Path(config.data.root)
    for language in ("de", "en"):
        path = root / f"valid.{language}"
        path.write_text("\n" + path.read_text())
    prepared = prepare(config)
    assert len(prepared.valid) == 21
    assert prepared.valid.source(0).tolist() == [prepared.tokenizer.end_id]


def test_a_given_tokenizer_is_used(config):
    tokenizer = prepare(changed(config, tokenizer={"vocabulary_size": 80})).tokenizer
    prepared = prepare(config, tokenizer=tokenizer)
    assert prepared.tokenizer.fingerprint == tokenizer.fingerprint
    assert prepared.fingerprints != prepare(config).fingerprints


def test_without_sampling_every_epoch_is_the_same_store(config):
    prepared = prepare(config)
    assert epoch_store(prepared, config, 0) is epoch_store(prepared, config, 1) is prepared.train


@pytest.mark.parametrize("side", ["source", "both"])
def test_sampling_gives_a_new_segmentation_in_each_epoch_and_the_same_for_one(config, side):
    config = changed(config, tokenizer={"sampling": 0.1, "sampling_side": side})
    prepared = prepare(config)
    before = sorted(prepared.folder.parent.iterdir())

    def ids(epoch: int, seed: int = 1) -> list[tuple[list[int], list[int]]]:
        mine = prepared if seed == 1 else prepare(config)  # which keeps the segmentations of one run
        store = epoch_store(mine, dataclasses.replace(config, seed=seed), epoch)
        return [(store.source(row).tolist(), store.target(row).tolist()) for row in range(len(store))]

    first, second = ids(0), ids(1)
    assert first == ids(0)
    assert sum(a[0] != b[0] for a, b in zip(first, second)) > 200
    assert (sum(a[1] != b[1] for a, b in zip(first, second)) > 200) == (side == "both")
    assert first != ids(0, seed=2)
    texts = [prepared.tokenizer.decode_source(source) for source, _ in second]
    assert texts == prepared.train.texts("source", 0, len(prepared.train))
    assert sorted(prepared.folder.parent.iterdir()) == before, "no file is left"


def test_sampled_epochs_keep_weights_and_corpora(config):
    config = changed(config, tokenizer={"sampling": 0.3}, data={"train": [files("train"), files("more", weight=2.0)]})
    prepared = prepare(config)
    store = epoch_store(prepared, config, 3)
    assert store.weights is prepared.train.weights
    assert store.corpus.tolist() == prepared.train.corpus.tolist()


def test_the_grammar_is_a_corpus(config, built):
    def drawn(split: str, pairs: int) -> CorpusConfig:
        return CorpusConfig(grammar=GrammarConfig(pairs=pairs), split=split)

    grammar = changed(
        config, data={"train": [drawn("train", 80)], "valid": [drawn("valid", 10)], "test": [drawn("test", 10)]}
    )
    assert len(prepare(grammar).train) <= 80
    prepare(grammar)
    assert len(built) == 1
    prepare(changed(grammar, data={"train": [drawn("train", 81)]}))
    assert len(built) == 2


@pytest.mark.parametrize("name", ["train/pairs.arrow", "valid/pairs.arrow", "tokenizer.model", "cleaning.json"])
def test_damage_in_the_cache_is_an_error_and_deleting_it_mends_it(config, name):
    folder = prepare(config).folder
    path = folder / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="delete the folder") as caught:
        prepare(config)
    assert str(path) in str(caught.value)
    shutil.rmtree(folder)
    assert len(prepare(config).train) == 400


def test_a_failed_preparation_leaves_nothing(config):
    (Path(config.data.root) / "valid.en").write_text("one\n")
    with pytest.raises(UserError, match=r"valid.de has 20 lines and .*valid.en has 1"):
        prepare(config)
    cache = Path(config.run_dir).parent / "cache"
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_a_cache_that_cannot_be_written_is_an_error(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--data.cache"):
        prepare(changed(config, data={"cache": str(tmp_path / "file" / "cache")}))


def test_what_is_prepared_stays_valid_beside_settings_that_nobody_uses(config):
    """This is what versions without `delimiter` have computed of the same text."""
    (Path(config.data.root) / "a.csv").write_text("de,en\neins,one\n")
    corpora = [CorpusConfig(files=["a.csv"]), CorpusConfig(files=["a.csv"], weight=2.0, columns=["0", "1"])]
    assert mt.corpus.prepare._fingerprint(corpora, config.data) == "9e2902bc4cdb8cbe9955f36c"
    other = [CorpusConfig(files=["a.csv"], delimiter=","), corpora[1]]
    assert mt.corpus.prepare._fingerprint(other, config.data) != "9e2902bc4cdb8cbe9955f36c"


def test_the_report_counts_by_corpus_and_rule(config):
    root = Path(config.data.root)
    units = [
        "".join(f'<tuv lang="{name}"><seg>{name} {n}</seg></tuv>' for name in ("de", "en")[n % 3 :]) for n in range(9)
    ]
    (root / "a.tmx").write_text("<tmx><body>" + "".join(f"<tu>{each}</tu>" for each in units) + "</body></tmx>")
    (root / "more.en").write_text("\n" * 100)
    train = [files("train"), files("more"), CorpusConfig(files=["a.tmx"])]
    cleaning = prepare(
        changed(config, data={"train": train}, cleaning={"max_words": 7}, train={"max_length": 20})
    ).cleaning
    first, more, memory = cleaning["corpora"]
    assert first["dropped"]["too_long"] > 9 and first["dropped"]["too_many_tokens"] > 9
    assert (more["kept"], more["dropped"]) == (0, {"empty": 100})
    assert (memory["read"], memory["kept"], memory["dropped"]) == (9, 3, {"missing_language": 6})
    for corpus in (first, more, memory):
        assert corpus["read"] == corpus["kept"] + sum(corpus["dropped"].values())
    for name in ("read", "kept"):
        assert cleaning[name] == sum(corpus[name] for corpus in (first, more, memory))
    for rule, found in cleaning["rules"].items():
        assert found["dropped"] == sum(corpus["dropped"].get(rule, 0) for corpus in (first, more, memory))
    assert cleaning["rules"]["missing_language"]["examples"] == [
        ["", "en 1"],
        ["", ""],
        ["", "en 4"],
        ["", ""],
        ["", "en 7"],
    ]


def test_no_pairs_left_or_a_missing_test_file_is_an_error(config):
    with pytest.raises(
        UserError, match=r"no pairs are left of 400 read; the rule too_long dropped most, 400; .*max_words"
    ):
        prepare(changed(config, cleaning={"max_words": 1}))
    with pytest.raises(
        UserError, match=r"left of 20 read; the rule overlap dropped most, 20; change data.cleaning.overlap"
    ):
        prepare(changed(config, data={"train": [files("valid")]}))
    with pytest.raises(UserError, match=r"none.de: there is no such file"):
        prepare(changed(config, data={"test": [files("none")]}))
    for language in ("de", "en"):
        (Path(config.data.root) / f"valid.{language}").write_text("")
    with pytest.raises(UserError, match="data.valid: there are no pairs"):
        prepare(config)


def _prepare_in_process(config: Config, barrier: Any, results: Any) -> None:
    barrier.wait()
    results.put(prepare(config).fingerprints)


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Config:
    """A corpus of two shards, with duplicates far from each other."""
    root = tmp_path_factory.mktemp("large")
    generator = np.random.default_rng(1)
    words = np.array([f"w{number}" for number in range(60)])
    drawn = words[generator.integers(0, 60, (65_000, 4))].tolist()
    for name, lines in {"train": drawn[:40_000], "more": drawn[30_000:], "valid": drawn[:5]}.items():
        (root / f"{name}.de").write_text("".join(" ".join(line) + "\n" for line in lines))
        (root / f"{name}.en").write_text("".join(" ".join(line[:-1]) + "\n" for line in lines))
    data = DataConfig(
        source_language="de",
        target_language="en",
        root=str(root),
        train=[files("train"), files("more")],
        valid=[files("valid")],
        cleaning=CleaningConfig(duplicate=True),
    )
    return Config(
        run_dir=str(root / "runs" / "first"),
        data=data,
        train=TrainConfig(max_epochs=1),
        tokenizer=TokenizerConfig(algorithm="bpe", vocabulary_size=100, training_sentences=2000, sampling=0.1),
    )


@pytest.fixture(scope="module")
def prepared_alone(large) -> Path:
    return prepare(dataclasses.replace(large, threads=1)).folder


def test_the_result_does_not_depend_on_the_number_of_processes(large, prepared_alone, tmp_path, monkeypatch):
    monkeypatch.setattr(mt.corpus.prepare, "_ALONE", 1)
    cleaning = prepare(large).cleaning
    # the 10,000 pairs of both files and a few chance ones are seen twice
    assert cleaning["read"] == 75_000 and 10_000 <= cleaning["rules"]["duplicate"]["dropped"] < 12_000
    shared = prepare(changed(dataclasses.replace(large, threads=3), data={"cache": str(tmp_path)}))
    assert _content(shared.folder) == _content(prepared_alone)
    kept = [corpus["kept"] for corpus in shared.cleaning["corpora"]]
    assert np.bincount(shared.train.corpus).tolist() == kept


def test_the_time_of_each_stage_is_told(config, capsys):
    prepare(config)
    told = capsys.readouterr().err.split("\n")[-2]
    number = r"[\d.,]+"
    stages = [rf"{stage} {number} s \({number} pairs/s\)" for stage in ("cleaning", "learning pieces", "tokenising")]
    assert re.fullmatch("400 pairs: " + ", ".join(stages), told)


def _owner(name: str) -> Any:
    return mt.corpus.store if name == "encode_shards" else mt.corpus.prepare


@pytest.mark.parametrize("stage", ["train_tokenizer", "_encode_valid", "encode_shards", "move_folder"])
def test_what_a_stopped_preparation_has_done_is_not_done_again(large, prepared_alone, tmp_path, monkeypatch, stage):
    config = changed(dataclasses.replace(large, threads=1), data={"cache": str(tmp_path)})
    calls = []
    for name in ("_clean_into", "train_tokenizer", "encode_shards", "_encode_valid"):
        done = getattr(_owner(name), name)
        monkeypatch.setattr(
            _owner(name),
            name,
            lambda *given, _name=name, _done=done, **options: (calls.append(_name), _done(*given, **options))[1],
        )
    with monkeypatch.context() as interrupted:
        interrupted.setattr(_owner(stage), stage, _interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(config)
    before = list(calls)
    again = prepare(config)
    assert _content(again.folder) == _content(prepared_alone)
    repeated = {"_encode_valid"} if stage == "encode_shards" else set()  # a moment's work, in the same stage
    assert set(before) & set(calls[len(before) :]) == repeated
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([f".{again.folder.name}.lock", again.folder.name])


def test_text_that_was_damaged_while_a_preparation_was_stopped_is_refused_and_made_anew(config, monkeypatch):
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        interrupted.setattr(mt.corpus.store, "encode_shards", _interrupt)
        prepare(config)
    (shard,) = Path(config.run_dir).parent.glob("cache/.*.building/shards/000000.source")
    content = shard.read_bytes()
    shard.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    with pytest.raises(UserError, match=r"000000\.source: was changed or damaged .*run again"):
        prepare(config)
    prepare(config)


def _interrupt(*given: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def _not_again(*given: Any, **options: Any) -> None:
    raise AssertionError("this is done already")


def test_a_killed_preparation_goes_on_with_its_shards(large, prepared_alone, tmp_path):
    config = changed(dataclasses.replace(large, threads=1), data={"cache": str(tmp_path)})
    process = multiprocessing.get_context("spawn").Process(target=prepare, args=(config,))
    process.start()
    deadline = time.monotonic() + 60
    while not (shards := list(tmp_path.glob(".*.building/shards/0*.arrow"))) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    first = shards[0].stat()
    building = shards[0].parent.parent
    for folder in (building, building / "shards"):
        (folder / ".000009.arrow.17.tmp").write_bytes(b"half")  # what a killed write may leave
    seen = []
    encode = mt.corpus.store.encode_shards

    def look(*given: Any, **options: Any) -> None:
        encode(*given, **options)
        seen.append(shards[0].stat())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mt.corpus.store, "encode_shards", look)
        again = prepare(config)
    assert (seen[0].st_mtime_ns, seen[0].st_ino) == (first.st_mtime_ns, first.st_ino), "it was encoded again"
    assert _content(again.folder) == _content(prepared_alone)


def test_the_next_epoch_is_segmented_ahead_by_another_process(config, monkeypatch):
    config = changed(config, tokenizer={"sampling": 0.1}, train={"max_epochs": 3})
    alone, ahead = prepare(config), prepare(config)
    monkeypatch.setattr(mt.corpus.epochs, "_begin", lambda *given: None)
    expected = [_ids(epoch_store(alone, config, epoch)) for epoch in range(3)]
    monkeypatch.undo()
    first = epoch_store(ahead, config, 0)
    assert epoch_store(ahead, config, 0) is first, "planning an epoch twice does not segment it twice"
    monkeypatch.setattr(mt.corpus.epochs, "_segment_here", _not_again)
    assert [_ids(epoch_store(ahead, config, epoch)) for epoch in range(3)] == expected
    assert len(ahead.segmented) == 1, "nothing is begun after the last epoch"


def test_an_epoch_whose_process_fails_is_segmented_here(config, monkeypatch):
    config = changed(config, tokenizer={"sampling": 0.1}, train={"max_epochs": 2})
    prepared = prepare(config)
    expected = _ids(epoch_store(prepare(config), config, 1))
    monkeypatch.setattr(mt.corpus.epochs, "_segment_ahead", _fail)
    epoch_store(prepared, config, 0)
    assert _ids(epoch_store(prepared, config, 1)) == expected


def _fail(*given: Any) -> None:
    raise SystemExit(1)


def test_a_segmentation_under_way_ends_with_the_training_and_leaves_nothing(config):
    config = changed(config, tokenizer={"sampling": 0.1}, train={"max_epochs": 9})
    cache = prepare(config).folder.parent
    before = sorted(cache.iterdir())
    training = multiprocessing.get_context("spawn").Process(target=_train_an_epoch, args=(config,))
    training.start()
    training.join(30)
    ended = training.exitcode
    training.kill()
    assert ended == 0
    assert sorted(cache.iterdir()) == before


def _train_an_epoch(config: Config) -> None:
    mt.corpus.epochs._segment_ahead = _sleep  # of a large corpus, say
    epoch_store(prepare(config), config, 0)


def _sleep(*given: Any) -> None:
    time.sleep(600)


def _ids(store: Any) -> list[tuple[list[int], list[int]]]:
    return [(store.source(row).tolist(), store.target(row).tolist()) for row in range(len(store))]


def test_two_processes_at_once_prepare_it_once(config):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_prepare_in_process, args=(config, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert found[0] == found[1] == prepare(config).fingerprints


def test_cleaning_options_reach_the_report(config):
    report = prepare(changed(config, cleaning=dataclasses.asdict(CleaningConfig(max_words=5, examples=1)))).cleaning
    rule = report["rules"]["too_long"]
    assert rule["dropped"] > 1 and len(rule["examples"]) == 1
    assert report["read"] == report["kept"] + sum(rule["dropped"] for rule in report["rules"].values())


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "identity", "nfkc_cf"])
def test_validation_and_test_pairs_that_are_hidden_in_the_training_text_are_found(config, normalization):
    root = Path(config.data.root)
    hide = [
        lambda text: text.replace(" ", "  "),
        lambda text: text.replace(" ", "\u00a0"),
        lambda text: text.replace("ü", "u\u0308"),
        lambda text: "\u200b" + text[:2] + "\u00ad" + text[2:],
        lambda text: text.upper() if normalization.endswith("_cf") else text,
    ]
    for name, text in {"valid": "fünf Hunde laufen", "test": "fünf Katzen schlafen"}.items():
        lines = [f"{text} {number}" for number in range(5)]
        for language in ("de", "en"):
            with (root / f"{name}.{language}").open("a") as held_out, (root / f"train.{language}").open("a") as train:
                held_out.writelines(f"{line}\n" for line in lines)
                train.writelines(f"{change(line)}\n" for change, line in zip(hide, lines))
    prepared = prepare(changed(config, tokenizer={"normalization": normalization}))
    assert prepared.cleaning["rules"]["overlap"]["dropped"] == 10
    assert len(prepared.train) == 400


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_sides_that_are_exchanged_stop_the_preparation_and_leave_nothing(config, split):
    root = Path(config.data.root)
    (root / "other.de").write_text("der Hund und die Katze sind nicht im Haus\n" * 10)
    (root / "other.en").write_text("the dog and the cat are not in the house\n" * 10)
    right = CorpusConfig(source=["other.de"], target=["other.en"])
    exchanged = CorpusConfig(source=["other.en"], target=["other.de"])
    splits = {"train": [files("train")], "valid": [right], "test": [right], split: [right, exchanged]}
    with pytest.raises(UserError, match=r"other\.en, .*other\.de: source \(de\) and target \(en\)"):
        prepare(changed(config, data=splits))
    cache = Path(config.run_dir).parent / "cache"
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == []
    prepare(changed(config, data=splits, cleaning={"languages": False, "overlap": False}))
