"""Translation memories: languages, markup, encodings, damage, and what a hostile file would like."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from mt.corpus.languages import tell
from mt.corpus.tmx import read_tmx
from mt.errors import UserError

HEAD = '<?xml version="1.0" encoding="{}"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n<tmx version="1.4"><header/><body>\n'
END = "</body></tmx>\n"


def unit(*variants: tuple[str, str], attribute: str = "xml:lang") -> str:
    inner = "".join(f'<tuv {attribute}="{name}">\n<seg>{text}</seg></tuv>' for name, text in variants)
    return f"<tu tuid='1'><prop type='x'>no text</prop><note>nor this</note>{inner}</tu>\n"


def memory(folder: Path, *units: str, head: str = HEAD.format("UTF-8"), encoding: str = "UTF-8") -> Path:
    path = folder / "memory.tmx"
    path.write_bytes((head + "".join(units) + END).encode(encoding))
    return path


def pairs(path: Path, *languages: str, lacking: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    tell.cache_clear()
    return list(read_tmx(path, languages or ("de", "en"), lacking or {"dropped": 0, "examples": []}))


def error(path: Path, *languages: str) -> str:
    with pytest.raises(UserError) as caught:
        pairs(path, *languages)
    return str(caught.value)


@pytest.mark.parametrize("attribute", ["xml:lang", "lang"])
@pytest.mark.parametrize("names", [("de", "en"), ("DE-DE", "EN-us"), ("de_AT", "en_GB")])
def test_languages_are_found_in_any_spelling(tmp_path: Path, attribute: str, names: tuple[str, str]) -> None:
    path = memory(tmp_path, unit((names[1], "dog"), ("den", "x"), (names[0], "Hund"), attribute=attribute))
    assert pairs(path) == [("Hund", "dog")]
    assert pairs(path, *names) == [("Hund", "dog")]


def test_of_several_variants_the_first_counts_and_columns_name_another(tmp_path: Path) -> None:
    path = memory(tmp_path, unit(("pt-PT", "autocarro"), ("en", "bus"), ("pt-BR", "ônibus"), ("en", "coach")))
    assert pairs(path, "pt", "en") == [("autocarro", "bus")]
    assert pairs(path, "PT-br", "en") == [("ônibus", "bus")]


def test_code_is_left_out_and_marked_text_stays(tmp_path: Path) -> None:
    source = (
        'Ein <bpt i="1">&lt;b title="<sub>Titel</sub>"></bpt><hi type="x">großer</hi> <mrk>Hund</mrk>'
        '<ept i="1">&lt;/b></ept> &amp; <ph/>K<it pos="begin">x</it>at<ut>{\\b}</ut>ze &#8211; <![CDATA[<a>]]>&nbsp;'
    )
    assert pairs(memory(tmp_path, unit(("de", source), ("en", "")))) == [
        ("Ein großer Hund & Katze – <a>\N{NO-BREAK SPACE}", "")
    ]


@pytest.mark.parametrize("encoding", ["UTF-8-SIG", "UTF-16", "ISO-8859-1", "windows-1252"])
def test_the_encoding_is_told_by_mark_or_declaration(tmp_path: Path, encoding: str) -> None:
    head = HEAD.format(encoding.removesuffix("-SIG"))
    path = memory(tmp_path, unit(("de", "Bär"), ("en", "bear")), head=head, encoding=encoding)
    assert pairs(path) == [("Bär", "bear")]


def test_a_packed_memory_is_read(tmp_path: Path) -> None:
    path = memory(tmp_path, unit(("de", "Hund"), ("en", "dog")))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert pairs(path) == [("Hund", "dog")]


def test_units_without_one_of_the_languages_are_counted_shown_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking: dict[str, Any] = {"dropped": 1, "examples": []}
    both, one = unit(("de", "Hund"), ("en", "dog")), unit(("de", "Katze"), ("fr", "chat"))
    path = memory(tmp_path, both, *[one] * 7, unit())
    assert pairs(path, lacking=lacking) == [("Hund", "dog")]
    assert (lacking["dropped"], lacking["examples"][0], len(lacking["examples"])) == (9, ["Katze", ""], 5)
    assert capsys.readouterr().err == f"{path}: of 9 units 8 lack de or en and are left out\n"
    told = error(path, "de", "es")
    assert "of 9 units none is in both de and es" in told and "de 8, fr 7, en 1" in told and "`columns`" in told
    assert "of 0 units none" in error(memory(tmp_path))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE tmx [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE tmx [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE tmx [<!ENTITY % a "x">]>',
    ],
)
def test_a_file_that_declares_entities_is_refused(tmp_path: Path, doctype: str) -> None:
    head = HEAD.format("UTF-8").replace('<!DOCTYPE tmx SYSTEM "tmx14.dtd">', doctype)
    assert doctype in head
    assert "declares an entity" in error(memory(tmp_path, unit(("de", "Hund"), ("en", "dog")), head=head))


def test_what_is_no_tmx_or_is_damaged_is_told_with_its_line(tmp_path: Path) -> None:
    path = memory(tmp_path, unit(("de", "Hund"), ("en", "dog")))
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: line 6 is no XML" in error(path)
    path.write_text("<html><body>tmx</body></html>")
    assert "its first element is <html>" in error(path)
    path.write_text("Hund\tdog\n")
    assert "line 1 is no XML" in error(path)
    path.write_text("")
    assert "is no XML" in error(path)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = memory(tmp_path, *[unit(("de", f"Hund {number} " * 9), ("en", "dog " * 20)) for number in range(15_000)])
    reader = read_tmx(path, ("de", "en"), {"dropped": 0, "examples": []})
    tracemalloc.start()
    assert sum(1 for _ in reader) == 15_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000 and peak < 1_500_000
