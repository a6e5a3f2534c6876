from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.corpus.tokenizer import Tokenizer
from mt.decoding.sources import fitting_sources, length_groups, padded, split_sentences
from mt.decoding.translator import Translator
from mt.decoding.types import normalised_score
from mt.model.directory import LoadedModel


def text(tokenizer: Tokenizer, sources: list[list[int]]) -> list[str]:
    return [tokenizer.decode_source(ids) for ids in sources]


def split(tokenizer: Tokenizer, line: str, longest: int) -> list[list[int]]:
    sources = fitting_sources(line, tokenizer.encode_source([line])[0], tokenizer, longest, "split")
    assert all(1 < len(ids) <= longest and ids[-1] == tokenizer.end_id for ids in sources)
    assert all(tokenizer.end_id not in ids[:-1] for ids in sources)
    return sources


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("der hund. die frau! ein buch? am fluss", ["der hund.", "die frau!", "ein buch?", "am fluss"]),
        ("der hund … die frau", ["der hund …", "die frau"]),
        ("der hund.) “die frau.” ein buch", ["der hund.)", "“die frau.”", "ein buch"]),
        ("hund。frau！」buch", ["hund。", "frau！」", "buch"]),
        ("hund 3.5 frau.de", ["hund 3.5 frau.de"]),
        ("hund...  frau", ["hund...", "frau"]),
        ("gut . und . . . dann", ["gut .", "und . . .", "dann"]),
        ("Dr. Katz kam. Dr. Who ging.", ["Dr. Katz kam.", "Dr. Who ging."]),
        ("Er sah z. B. Nr. 5, ca. 3.5 km weit. So war es.", ["Er sah z. B. Nr. 5, ca. 3.5 km weit.", "So war es."]),
        ("Am 3. Mai kam J. S. Bach. Es war 1723. Ja.", ["Am 3. Mai kam J. S. Bach.", "Es war 1723.", "Ja."]),
        ("Die 2. Liga, vgl. Art. 5. Heinrich XIV. kam.", ["Die 2. Liga, vgl. Art. 5. Heinrich XIV. kam."]),
        (
            "Mr. Smith of the U.S. Army, e.g. Prof. X, left. So?",
            ["Mr. Smith of the U.S. Army, e.g. Prof. X, left.", "So?"],
        ),
        ("M. Noir et Mme. Ici vinrent. J.-P. Là part.", ["M. Noir et Mme. Ici vinrent.", "J.-P. Là part."]),
        ("Er sagte: „Gut.“ Dann ging er.", ["Er sagte: „Gut.“", "Dann ging er."]),
        ("« Bonjour ! » dit-il. « Bien ! » Il part.", ["« Bonjour ! » dit-il.", "« Bien ! »", "Il part."]),
        ("»Komm!« rief sie. »Nein.« Er blieb.", ["»Komm!« rief sie.", "»Nein.«", "Er blieb."]),
        ("他来了。「你好！」（对。）真的吗？", ["他来了。", "「你好！」", "（对。）", "真的吗？"]),
        ("彼は来た。本当？", ["彼は来た。", "本当？"]),
        ("यह एक है। यह दो है॥ डॉ. शर्मा आए।", ["यह एक है।", "यह दो है॥", "डॉ. शर्मा आए।"]),
        ("هل هذا صحيح؟ نعم! ذهب د. أحمد.", ["هل هذا صحيح؟", "نعم!", "ذهب د. أحمد."]),
        ("یہ ایک ہے۔ یہ دو ہے۔", ["یہ ایک ہے۔", "یہ دو ہے۔"]),
        ("Սա մեկ է։ Սա երկու է։", ["Սա մեկ է։", "Սա երկու է։"]),
        ("ይህ አንድ ነው። ይህ ሁለት ነው፧ አዎ።", ["ይህ አንድ ነው።", "ይህ ሁለት ነው፧", "አዎ።"]),
        ("នេះមួយ។នេះពីរ។", ["នេះមួយ។", "នេះពីរ។"]),
    ],
)
def test_a_text_is_split_where_sentences_end(line: str, sentences: list[str]) -> None:
    assert split_sentences(line) == sentences


def test_sentences_of_a_line_are_its_sources(tokenizer: Tokenizer) -> None:
    assert split(tokenizer, "der hund. die frau!", 1000) == tokenizer.encode_source(["der hund.", "die frau!"])


@pytest.mark.parametrize("text", [".", ". ", '."', "。", "Dr. ", "A.", " »"])
def test_a_long_run_of_marks_is_split_in_linear_time(text: str) -> None:
    started = time.process_time()
    split_sentences(text * 50_000)
    assert time.process_time() - started < 5  # quadratic: minutes


@given(text=st.text(alphabet='aB1 .!?…。।"»“)\u2028z', max_size=60), careful=st.booleans())
def test_splitting_loses_nothing_but_space(text: str, careful: bool) -> None:
    sentences = split_sentences(text, careful=careful)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)


def test_a_sentence_that_is_too_long_is_split_at_doubtful_marks_before_words(tokenizer: Tokenizer) -> None:
    line = "Der hund sieht einen ball. die frau liest ein buch."  # one sentence, in careful reading
    assert split_sentences(line) == [line]
    longest = len(tokenizer.encode_source([line])[0]) - 1
    assert text(tokenizer, split(tokenizer, line, longest)) == line.replace(". die", ".|die").split("|")


def test_a_long_sentence_is_split_before_words_and_loses_nothing(tokenizer: Tokenizer) -> None:
    line = "der hund sieht einen kleinen ball und die frau liest ein xyzzyx buch am fluss " * 3
    parts = text(tokenizer, split(tokenizer, line, 10))
    assert " ".join(parts) == line.strip()


def test_a_sentence_without_words_is_split_by_count(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_source(["x" * 100])[0]
    sources = split(tokenizer, "x" * 100, 9)
    assert [token for source in sources for token in source[:-1]] == ids[:-1]
    lengths = [len(source) for source in sources]
    assert max(lengths) - min(lengths) <= 1  # no scrap is left at the end


def test_a_line_that_is_cut_keeps_its_beginning_and_its_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_source(["hund ball frau"])[0]
    assert fitting_sources("", ids, tokenizer, 3, "cut") == [[*ids[:2], ids[-1]]]


@pytest.mark.parametrize(
    ("language", "separator"),
    [
        ("en", " "),
        ("zh", ""),
        ("zh_Hant", ""),
        ("ZH-cn", ""),
        ("ja", ""),
        ("th", ""),
        ("my", ""),
        ("ko", " "),
        ("bg", " "),
    ],
)
def test_parts_are_joined_as_their_language_is_written(loaded: LoadedModel, language: str, separator: str) -> None:
    config = replace(loaded.config, data=replace(loaded.config.data, target_language=language))
    translator = Translator(replace(loaded, config=config))
    sentences = ["der hund sieht einen kleinen ball.", "die frau liest ein rotes buch."] * 4
    *alone, whole = (each["translation"] for each in translator.translate([*sentences, " ".join(sentences)], beam=1))
    assert whole == separator.join(filter(None, alone))


def test_the_parts_of_a_line_are_translated_alone_and_joined(translator: Translator) -> None:
    sentences = ["der hund sieht einen kleinen ball.", "die frau liest ein rotes buch.", "am fluss!"]
    longest = translator.loaded.config.decode.max_length
    line = " ".join(sentences * 3)
    assert len(translator.loaded.tokenizer.encode_source([line])[0]) > longest
    options: dict[str, Any] = {"length_penalty": "gnmt", "length_alpha": 0.7, "alignments": True}
    record = next(translator.translate([line], **options))
    alone = list(translator.translate(sentences, **options)) * 3
    assert record["overlong"] and record["source"] == line
    assert record["translation"] == " ".join(part["translation"] for part in alone if part["translation"])
    for name in ("tokens", "log_probs", "token_confidence", "source_tokens"):
        whole = [value for part in alone for value in part[name]]
        assert record[name] == (whole if name.endswith("tokens") else pytest.approx(whole, abs=1e-4))
    expected = normalised_score(sum(record["log_probs"]), "gnmt", len(record["tokens"]), 0.7)
    assert record["score"] == pytest.approx(expected, abs=1e-4)
    assert record["confidence"] == pytest.approx(np.mean(record["token_confidence"]), abs=1e-6)
    second = len(alone[0]["source_tokens"]), len(alone[0]["tokens"])
    moved = [[source + second[0], target + second[1]] for source, target in alone[1]["alignment"]]
    first = len(alone[0]["alignment"])
    assert record["alignment"][: first + len(moved)] == [*alone[0]["alignment"], *moved]


@given(lengths=st.lists(st.integers(1, 50)), most=st.integers(1, 200))
def test_groups_hold_every_index_once_within_the_budget(lengths: list[int], most: int) -> None:
    groups = length_groups(lengths, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most


def test_groups_go_from_long_to_short_and_keep_order_among_equals() -> None:
    assert length_groups([3, 9, 3, 9, 1], 18) == [[1, 3], [0, 2, 4]]


def test_rows_are_padded_on_the_right() -> None:
    assert padded([[5, 6, 7], [8]], 0, "cpu").tolist() == [[5, 6, 7], [8, 0, 0]]
