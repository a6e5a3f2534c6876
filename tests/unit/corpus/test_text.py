"""Reading raw parallel text: every form, odd characters, and one-line errors."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import json
import lzma
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from mt.config import CorpusConfig, DataConfig, GrammarConfig
from mt.corpus.text import input_files, read_pairs
from mt.errors import UserError
from mt.grammar.grammar import sample_pairs


def pairs(root: Path, **corpus: Any) -> list[tuple[str, str]]:
    return list(read_pairs(CorpusConfig(**corpus), data(root)))


def data(root: Path) -> DataConfig:
    some = [CorpusConfig(source=["a"], target=["b"])]
    return DataConfig(source_language="de", target_language="en", train=some, valid=some, root=str(root))


def error(root: Path, **corpus: Any) -> str:
    with pytest.raises(UserError) as caught:
        pairs(root, **corpus)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_several_files_are_read_in_order_and_gzip_is_told_by_its_content(tmp_path):
    (tmp_path / "plain.gz").write_bytes(b"eins\r\nzwei \n")
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"drei\n") + gzip.compress(b"vier\n"))
    (tmp_path / "en1").write_bytes(b"one\ntwo\n")
    (tmp_path / "en2").write_bytes(b"\tthree\nfour")
    found = pairs(tmp_path, source=["plain.gz", "packed.txt"], target=["en1", "en2"])
    assert found == [("eins", "one"), ("zwei", "two"), ("drei", "three"), ("vier", "four")]


@pytest.mark.parametrize(("source", "target"), [("a\nb\n", "a\nb\nc\nd\n"), ("a\nb\nc\nd\n", "a\nb\n")])
def test_sides_of_different_length_are_an_error_with_both_counts(tmp_path, source, target):
    (tmp_path / "a.de").write_text(source)
    (tmp_path / "a.en").write_text(target)
    text = error(tmp_path, source=["a.de"], target=["a.en"])
    counts = [len(side.split()) for side in (source, target)]
    assert f"a.de has {counts[0]} lines" in text and f"a.en has {counts[1]}" in text


def test_files_must_match_one_by_one_and_not_only_in_sum(tmp_path):
    for name, text in {"a.de": "1\n2\n", "a.en": "1\n", "b.de": "2\n", "b.en": "1\n2\n"}.items():
        (tmp_path / name).write_text(text)
    assert "a.de has 2" in error(tmp_path, source=["a.de", "b.de"], target=["a.en", "b.en"])


def test_a_missing_file_names_the_data_root(tmp_path):
    assert "--data.root" in error(tmp_path, source=["a.de"], target=["a.en"])
    assert "--data.root" in error(tmp_path, files=["none.parquet"])
    assert "folder" in error(tmp_path.parent, files=[tmp_path.name])


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_invalid_utf8_is_an_error_with_file_and_line(tmp_path, name):
    content = {
        "a.tsv": b"x\ty\n\xe4\tb\n",
        "a.csv": b"de,en\n\xe4,b\n",
        "a.jsonl": b'{"de":"a","en":"b"}\n{"de":"\xe4"}\n',
    }
    (tmp_path / name).write_bytes(content[name])
    text = error(tmp_path, files=[name])
    assert f"{name}: line 2 is not UTF-8" in text


@pytest.mark.parametrize("damage", [lambda packed: packed[:-9], lambda packed: packed[:30] + b"????" + packed[34:]])
def test_damaged_gzip_is_an_error(tmp_path, damage):
    packed = gzip.compress(bytes(range(256)).hex().encode())
    (tmp_path / "a.de").write_bytes(damage(packed))
    (tmp_path / "a.en").write_bytes(b"x\n")
    assert "damaged gzip" in error(tmp_path, source=["a.de"], target=["a.en"])


def test_tsv_knows_only_tabs_and_line_feeds(tmp_path):
    (tmp_path / "a.tsv").write_bytes('"a\tb"\textra\nc\rd\te\u2028f\r\n'.encode())
    assert pairs(tmp_path, files=["a.tsv"]) == [('"a', 'b"'), ("c\rd", "e\u2028f")]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfde\ten\neins\tone\n")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfde,en\neins,one\n")
    for name in ("a.tsv", "a.csv"):
        assert pairs(tmp_path, files=[name]) == [("eins", "one")]


def test_the_grammar_speaks_the_languages_of_the_data(tmp_path):
    both = data(tmp_path)
    back = dataclasses.replace(both, source_language="en", target_language="de")
    corpus = CorpusConfig(grammar=GrammarConfig(pairs=5))
    assert list(read_pairs(corpus, both)) == list(sample_pairs(("de", "en"), 5, corpus.grammar.seed, split="train"))
    assert list(read_pairs(corpus, back)) == list(sample_pairs(("en", "de"), 5, corpus.grammar.seed, split="train"))


def test_tsv_columns_by_header_by_language_and_by_number(tmp_path):
    (tmp_path / "a.tsv").write_text("id\ten\tde\n1\tone\teins\n")
    assert pairs(tmp_path, files=["a.tsv"]) == [("eins", "one")]
    assert pairs(tmp_path, files=["a.tsv"], columns=["id", "en"]) == [("1", "one")]
    assert pairs(tmp_path, files=["a.tsv"], columns=["2", "0"]) == [("eins", "1")]
    assert "id, en, de" in error(tmp_path, files=["a.tsv"], columns=["fr", "en"])
    assert "line 2 has 3 columns" in error(tmp_path, files=["a.tsv"], columns=["3", "0"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("compressed", [False, True])
def test_csv_fields_are_text_as_they_stand(tmp_path, end, compressed):
    rows = ["en,de,note", '"a, ""b""",NA,1', "1.50,null,2", '"two\nlines",\u2028x,3']
    content = (end.join(rows) + end).encode()
    name = "a.csv.gz" if compressed else "a.csv"
    (tmp_path / name).write_bytes(gzip.compress(content) if compressed else content)
    assert pairs(tmp_path, files=[name]) == [("NA", 'a, "b"'), ("null", "1.50"), ("x", "two lines")]


def test_csv_rows_with_too_many_fields_are_an_error(tmp_path):
    (tmp_path / "first.csv").write_text("de,en\nJa, klar,yes\n")
    (tmp_path / "later.csv").write_text("de,en\nJa,yes\nJa, klar,yes\n")
    assert "first.csv: line 2 has 3 fields" in error(tmp_path, files=["first.csv"])
    assert "later.csv: line 3 has 3 fields" in error(tmp_path, files=["later.csv"])
    (tmp_path / "a.csv").write_text('de,en\n"Ja, klar,yes\n')
    assert "a.csv: line 2 is no CSV" in error(tmp_path, files=["a.csv"])
    (tmp_path / "a.csv").write_text("de;en\nja;yes\n")
    assert "columns de, en are needed, and there are de;en" in error(tmp_path, files=["a.csv"])


def test_json_lines_and_json_lists_with_nested_columns(tmp_path):
    rows = [{"translation": {"de": "eins", "en": "one\ntwo"}}, {"translation": {"de": None, "en": "a\0b"}}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    expected = [("eins", "one two"), ("", "a\0b")]
    for name in ("a.jsonl", "a.json"):
        assert pairs(tmp_path, files=[name]) == expected
        assert pairs(tmp_path, files=[name], columns=["translation.de", "translation.en"]) == expected
    text = error(tmp_path, files=["a.jsonl"], columns=["translation.fr", "translation.en"])
    assert "translation.de, translation.en" in text
    (tmp_path / "a.jsonl").write_text('{"de": 1, "en": "one"}\n')
    assert "holds 1, and text is needed" in error(tmp_path, files=["a.jsonl"])
    (tmp_path / "a.jsonl").write_text('{"de": "a", "en": "b"}\n\n{"de": "a", \n')
    assert "a.jsonl: line 3: not as expected" in error(tmp_path, files=["a.jsonl"])
    (tmp_path / "a.jsonl").write_text('{"de": "a", "en": "b"}\n{"de": "a"}\n')
    assert "a.jsonl: row 2: columns de, en are needed" in error(tmp_path, files=["a.jsonl"])
    (tmp_path / "a.json").write_text('[{"de": "a", "en": "b"}, 5]')
    assert "a.json: not as expected" in error(tmp_path, files=["a.json"])


@pytest.mark.parametrize("text", ["2020-01-01", "2020-01-01T10:00:00Z", "12:30", "1e5", "true", "null", "\ufeffa"])
def test_json_strings_that_look_like_something_else_stay_text(tmp_path, text):
    rows = [{"de": text, "en": text}] * 3
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "a.csv").write_text(f"de,en\n{text},{text}\n")
    for name in ("a.jsonl", "a.json", "a.csv"):
        assert set(pairs(tmp_path, files=[name])) == {(text, text)}


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_every_form_of_text_may_be_packed(tmp_path, ending, pack):
    contents = {
        "a.tsv": b"eins\tone\r\n",
        "a.csv": b"en,de\r\none,eins\r\n",
        "a.jsonl": b'{"de":"eins","en":"one"}\r\n',
    }
    for name, content in contents.items():
        (tmp_path / (name + ending)).write_bytes(pack(content))
        assert pairs(tmp_path, files=[name + ending]) == [("eins", "one")]


def test_parquet(tmp_path):
    table = pyarrow.table({"en": ["one", "a\r"], "de": ["eins", None]})
    pyarrow.parquet.write_table(table, tmp_path / "a [1].parquet")
    assert pairs(tmp_path, files=["a [1].parquet"]) == [("eins", "one"), ("", "a")]
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a [1].parquet").read_bytes()[:200])
    assert "b.parquet: cannot be read" in error(tmp_path, files=["b.parquet"])


def test_a_folder_stands_for_a_data_set_of_the_hub(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"de": "eins", "en": "one"}\n')
    assert pairs(tmp_path, hub="set") == [("eins", "one")]
    assert "Bad split" in error(tmp_path, hub="set", split="nope")
    assert input_files(CorpusConfig(hub="set"), data(tmp_path)) == [tmp_path / "set" / "train.jsonl"]


def test_a_data_set_is_never_trusted_with_code_of_its_own(tmp_path, monkeypatch):
    import datasets

    (tmp_path / "set").mkdir()
    given = []
    monkeypatch.setattr(datasets, "load_dataset", lambda **options: given.append(options) or [])
    assert pairs(tmp_path, hub="set") == []
    assert [options["trust_remote_code"] for options in given] == [False]


def saved(folder: Path, name: str, rows: dict[str, list[Any]], shards: int = 1) -> Path:
    """A data set as `save_to_disk` leaves it."""
    table, folder = pyarrow.table(rows), folder / name
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{shards:05}.arrow" for number in range(shards)]
    size = -(-len(table) // shards)
    for number, each in enumerate(names):
        with pyarrow.ipc.new_stream(folder / each, table.schema) as writer:
            writer.write_table(table.slice(number * size, size), max_chunksize=2)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": each} for each in names]}))
    return folder


def test_a_data_set_saved_to_disk_is_read_without_datasets(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # an import of it fails
    rows = {"en": ["one", "two", "three"], "note": [b"\xff", b"", b""], "de": ["eins", None, "drei"]}
    saved(tmp_path, "set", rows, shards=2)
    assert pairs(tmp_path, hub="set") == [("eins", "one"), ("", "two"), ("drei", "three")]
    assert "columns fr, en are needed, and there are en, note, de" in error(tmp_path, hub="set", columns=["fr", "en"])
    assert len(input_files(CorpusConfig(hub="set"), data(tmp_path))) == 3
    pairs_of_one = [{"de": text, "en": text.upper()} for text in ("a", "b")]
    saved(tmp_path, "splits/test", {"translation": pairs_of_one})
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert pairs(tmp_path, hub="splits", split="test") == [("a", "A"), ("b", "B")]
    assert "has no split valid; `split` must be one of train, test" in error(tmp_path, hub="splits", split="valid")
    assert "is a folder" in error(tmp_path, files=["set"]) and "named by `hub`" in error(tmp_path, files=["set"])
    shard = tmp_path / "set" / "data-00001-of-00002.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    assert f"{shard}: cannot be read" in error(tmp_path, hub="set")
    shard.unlink()
    assert f"{shard}: cannot be read" in error(tmp_path, hub="set")


@pytest.mark.slow  # imports datasets
def test_what_save_to_disk_writes_is_read(tmp_path):
    import datasets

    rows = [{"translation": {"de": f"Wort {number}", "en": f"word {number}"}} for number in range(5)]
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(tmp_path / "set", num_shards=2)
    datasets.DatasetDict({"test": whole.filter(lambda row: row["translation"]["de"] > "Wort 2")}).save_to_disk(
        tmp_path / "splits"
    )
    expected = [(row["translation"]["de"], row["translation"]["en"]) for row in rows]
    assert pairs(tmp_path, hub="set") == expected
    assert pairs(tmp_path, hub="splits", split="test") == expected[3:]


@pytest.mark.parametrize("answers", [True, False])
def test_a_hub_that_cannot_be_reached_is_told_in_seconds(tmp_path, monkeypatch, answers):
    """Nobody listens there, or somebody does and says nothing."""
    import huggingface_hub

    monkeypatch.setattr("mt.corpus.text._HUB_SECONDS", 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if answers:
            server.listen()
        hub = huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        began = time.monotonic()
        told = error(tmp_path, hub="some/set")
    assert told.startswith("some/set: cannot be had from the Hugging Face hub: ") and told.endswith("and the network")
    assert time.monotonic() - began < 5


def test_tab_separated_text_and_other_delimiters(tmp_path):
    (tmp_path / "a.txt").write_text('eins\t"one\n')
    assert pairs(tmp_path, files=["a.txt"]) == [("eins", '"one')]
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"eins|one\nzwei|two\n"))
    assert pairs(tmp_path, files=["a.txt.gz"], delimiter="|") == [("eins", "one"), ("zwei", "two")]
    (tmp_path / "a.txt").write_text("eins\nzwei\n")
    assert "line 1 has 1 columns" in error(tmp_path, files=["a.txt"]) and "`delimiter`" in error(
        tmp_path, files=["a.txt"]
    )


def test_csv_as_excel_writes_it_in_germany(tmp_path):
    text = 'Nummer;Englisch;Deutsch\r\n1;"two\r\nlines; yes";"zwei ""Zeilen"""\r\n2;one, two;eins, zwei\r\n'
    (tmp_path / "a.csv").write_bytes(text.encode("utf-8-sig"))
    expected = [('zwei "Zeilen"', "two lines; yes"), ("eins, zwei", "one, two")]
    assert pairs(tmp_path, files=["a.csv"], delimiter=";") == expected
    assert pairs(tmp_path, files=["a.csv"], delimiter=";", columns=["Deutsch", "Englisch"]) == expected
    told = error(tmp_path, files=["a.csv"])
    assert "there are Nummer;Englisch;Deutsch; set `delimiter: " in told
    (tmp_path / "a.csv").write_text("de;en\nja;yes\n")
    assert error(tmp_path, files=["a.csv"]).endswith('there are de;en; set `delimiter: ";"`')
    (tmp_path / "a.csv").write_text("Hund,dog\nKatze,cat\n")
    assert "two numbers from 0" in error(tmp_path, files=["a.csv"])
    assert len(pairs(tmp_path, files=["a.csv"], columns=["0", "1"])) == 2


def test_a_translation_memory_is_a_file_with_both_sides(tmp_path):
    units = "".join(f'<tuv xml:lang="{name}"><seg>{text}\n </seg></tuv>' for name, text in (("de", "a"), ("EN", "b")))
    (tmp_path / "a.tmx").write_text(f"<tmx><body><tu>{units}</tu></body></tmx>")
    assert pairs(tmp_path, files=["a.tmx"]) == [("a", "b")]
    assert "none is in both en and fr" in error(tmp_path, files=["a.tmx"], columns=["en", "fr"])


def test_reading_through_datasets_leaves_nothing_behind(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text('{"de": "eins", "en": "one"}\n')
    assert pairs(tmp_path, hub="set") == [("eins", "one")]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_name_of_unknown_form_is_an_error(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    assert ".parquet" in error(tmp_path, files=["a.xlsx"])
