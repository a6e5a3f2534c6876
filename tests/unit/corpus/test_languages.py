"""Sides that are exchanged, and first lines that are headers, are noticed; text that is right raises no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mt.config import CleaningConfig, CorpusConfig, DataConfig
from mt.corpus.languages import check_sides, header, tell
from mt.corpus.text import read_pairs
from mt.errors import UserError
from mt.grammar.grammar import sample_pairs

TEXT = {
    "de": ["Der Hund und die Katze sind nicht im Haus.", "Ich habe es auch für einen Freund von mir gekauft."],
    "en": ["The dog and the cat are not in the house.", "I have also bought it for a friend of mine and his son."],
    "fr": ["Le chien et le chat ne sont pas dans la maison.", "Je l'ai acheté pour un ami qui est à Paris."],
    "es": ["El perro y el gato no están en la casa.", "Lo he comprado para un amigo que es de París."],
    "pt": ["O cão e o gato não estão em casa.", "Eu comprei para um amigo que é de Paris."],
    "ru": ["Собака и кошка не в доме, но это не так.", "Я купил это для друга, что и как он сказал."],
    "uk": ["Собака і кішка не в домі, але це не так.", "Я купив це для друга, що і як він сказав."],
    "zh": ["狗和猫不在房子里。", "我也给我的朋友买了它。"],
    "ja": ["犬と猫は家にいません。", "友達のためにもそれを買いました。"],
    "fa": ["سگ و گربه در خانه نیستند و این است.", "من آن را برای یک دوست از تهران خریدم."],
    "th": ["สุนัขและแมวไม่ได้อยู่ในบ้าน", "ฉันซื้อมันให้เพื่อนด้วย"],
}


def pairs(source: str, target: str, times: int = 10) -> list[tuple[str, str]]:
    return list(zip(TEXT[source], TEXT[target])) * times


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    tell.cache_clear()
    return lambda: capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ("de", "en", ["de", "en"]),
        ("fr", "en", ["fr-CA", "en_GB"]),
        ("de", "fr", ["deu_Latn", "French"]),
        ("zh", "en", ["zh-Hans", "eng"]),
        ("ja", "zh", ["ja", "zh"]),
        ("ru", "de", ["ru", "DE"]),
        ("fa", "th", ["fa", "th"]),
        ("de", "en", ["lb", "en"]),
        ("en", "de", ["en", "xx"]),
    ],
)
def test_sides_that_are_exchanged_are_an_error_and_right_ones_are_not(source, target, names, told):
    check_sides("a.tsv", 0, pairs(source, target), names)
    assert not told()
    with pytest.raises(UserError, match=r"^a\.tsv: source .* each other's language; exchange them"):
        check_sides("a.tsv", 0, pairs(target, source), names)


@pytest.mark.parametrize("source", TEXT)
@pytest.mark.parametrize("target", TEXT)
def test_no_text_in_its_own_languages_raises_an_alarm(source, target, told):
    check_sides("a", 0, pairs(source, target), [source, target])
    check_sides("a", 0, pairs(source, target), ["xx", "yy"])
    check_sides("a", 0, pairs(source, target), [source, source])  # to write sentences anew
    assert not told()


def test_near_relatives_few_lines_and_text_without_words_raise_no_alarm(told):
    check_sides("a", 0, pairs("pt", "es"), ["gl", "es"])
    check_sides("a", 0, pairs("uk", "ru"), ["be", "ru"])
    check_sides("a", 0, pairs("en", "de", times=1), ["de", "en"])
    check_sides("a", 0, [("1", "2"), ("", "B-7")] * 500, ["de", "en"])
    check_sides("a", 0, [], ["de", "en"])
    assert not told()


@pytest.mark.parametrize("languages", [("de", "en"), ("en", "fr"), ("fr", "de")])
def test_the_shipped_grammar_is_in_its_languages(languages, told):
    some = list(sample_pairs(languages, 300, 1, split="train"))
    check_sides("grammar", 0, some, languages)
    assert not told()
    with pytest.raises(UserError, match="each other's language"):
        check_sides("grammar", 0, [(target, source) for source, target in some], languages)


def test_a_side_in_another_language_is_told(told):
    check_sides("a", 0, pairs("en", "en"), ["de", "en"])
    assert told() == "a: its source side reads like English, not like de\n"
    check_sides("b", 0, pairs("fr", "en"), ["de", "en"])
    assert told() == "b: its source side reads like French, not like de\n"
    check_sides("b", 0, pairs("de", "zh"), ["de", "en"])
    assert told() == "b: its target side reads like Chinese, not like en\n"


@pytest.mark.parametrize(
    ("fields", "columns"),
    [
        (["german", "english"], [0, 1]),
        (["English", "German", "score"], [1, 0]),
        (["id", "de", "en"], [1, 2]),
        (["Deutsch", "Englisch"], [0, 1]),
        (["Tysk", "Engelsk"], []),
        (["Deutsch", "English"], [0, 1]),
        (["source", "target"], [0, 1]),
        (["tgt", "src"], [1, 0]),
        (["source_text", "translation"], [0, 1]),
        (["text_de", "text_en"], [0, 1]),
        (["french", "english"], [0, 1]),  # names of languages, if not ours
        (["es", "it"], []),  # words, here
        (["Guten Tag", "Good day"], []),
        (["English is not German", "German"], []),
        (["source", "source"], []),
        (["", ""], []),
        (["one"], []),
    ],
)
def test_a_header_names_languages_or_source_and_target(fields, columns):
    assert header(fields, ["de-AT", "en"]) == columns


def read(root: Path, cleaning: CleaningConfig | None = None, **corpus: Any) -> list[tuple[str, str]]:
    one = CorpusConfig(**corpus)
    data = DataConfig(
        source_language="de",
        target_language="en",
        root=str(root),
        train=[one],
        valid=[one],
        cleaning=cleaning or CleaningConfig(),
    )
    return list(read_pairs(one, data))


def write(root: Path, name: str, rows: list[tuple[str, str]]) -> None:
    (root / f"{name}.de").write_text("".join(f"{source}\n" for source, _ in rows))
    (root / f"{name}.en").write_text("".join(f"{target}\n" for _, target in rows))
    (root / f"{name}.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in rows))


@pytest.mark.parametrize(
    "form", [{"source": ["a.en"], "target": ["a.de"]}, {"files": ["a.tsv"], "columns": ["1", "0"]}]
)
def test_every_form_of_a_corpus_is_looked_at_and_every_file_of_it(tmp_path, form):
    write(tmp_path, "a", pairs("de", "en"))
    with pytest.raises(UserError, match=r"a\.(tsv|en).*data\.cleaning\.languages"):
        read(tmp_path, **form)
    assert len(read(tmp_path, CleaningConfig(languages=False), **form)) == 20
    with pytest.raises(UserError, match=r"a\.en, .*a\.de: source"):
        read(tmp_path, source=["a.de", "a.en"], target=["a.en", "a.de"])


def test_sides_that_are_exchanged_in_the_middle_of_a_file_are_found(tmp_path):
    write(tmp_path, "a", [*pairs("de", "en", 6000), *pairs("en", "de", 5000)])
    with pytest.raises(UserError, match=r"a\.tsv, from pair 20001: source"):
        read(tmp_path, files=["a.tsv"])
    write(tmp_path, "b", pairs("de", "en", 10_000))
    assert len(read(tmp_path, files=["b.tsv"])) == 20_000, "not a pair is lost between blocks"


@pytest.mark.parametrize("names", [("german", "english"), ("source", "target"), ("de", "en")])
def test_a_header_is_never_read_as_text(tmp_path, names, told):
    write(tmp_path, "a", [names, ("eins", "one")])
    for corpus in (
        {"files": ["a.tsv"]},
        {"files": ["a.tsv"], "columns": ["0", "1"]},
        {"files": ["a.tsv"], "columns": list(names)},
        {"source": ["a.de"], "target": ["a.en"]},
    ):
        assert read(tmp_path, **corpus) == [("eins", "one")]
    assert f"a.tsv: the first line ({names[0]} | {names[1]}) is taken for a header" in told()


def test_columns_are_found_by_the_names_of_their_languages(tmp_path):
    (tmp_path / "a.tsv").write_text("English\tid\tGerman\none\t1\teins\n")
    (tmp_path / "a.csv").write_text('"English","German"\none,eins\n')
    for name in ("a.tsv", "a.csv"):
        assert read(tmp_path, files=[name]) == [("eins", "one")]
