"""Cleaning: each rule, their order, and an account that adds up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.config import CleaningConfig
from mt.corpus.cleaning import RULES, Cleaner, SeenHashes, examine

words = st.lists(st.sampled_from(["a", "b", "\0", "\u2028", " ", ""]), max_size=6).map(" ".join)
pair = st.tuples(words, words)

OFF = {"empty": False, "max_words": 0, "max_characters": 0, "overlap": False}


def run(pairs, config, held_out=(), piece=3):
    """The kept pairs and the report, of a corpus that comes in pieces of so many pairs."""
    cleaner = Cleaner(config, examine(sides(held_out), config)[1])
    kept = []
    for start in range(0, len(pairs), piece):
        texts = sides(pairs[start : start + piece])
        kept += zip(*cleaner.keep(texts, examine(texts, config)))
    return kept, {"read": cleaner.read, "kept": cleaner.kept, "rules": cleaner.rules}


def sides(pairs):
    return [source for source, _ in pairs], [target for _, target in pairs]


@given(
    st.lists(pair, max_size=30),
    st.lists(pair, max_size=5),
    st.builds(
        CleaningConfig,
        empty=st.booleans(),
        max_words=st.integers(0, 4),
        max_characters=st.integers(0, 8),
        max_ratio=st.sampled_from([0.0, 1.0, 1.5, 2.0]),
        identical=st.booleans(),
        duplicate=st.booleans(),
        overlap=st.booleans(),
        examples=st.integers(0, 2),
    ),
)
def test_every_pair_is_kept_or_counted_under_one_rule(pairs, held_out, config):
    kept, report = run(pairs, config, held_out)
    dropped = sum(rule["dropped"] for rule in report["rules"].values())
    assert report["read"] == len(pairs) == report["kept"] + dropped
    assert report["kept"] == len(kept)
    assert list(report["rules"]) == list(RULES)
    for rule in report["rules"].values():
        assert len(rule["examples"]) == min(rule["dropped"], config.examples)


@pytest.mark.parametrize(
    ("rule", "options", "dropped", "kept"),
    [
        ("empty", {"empty": True}, [("", "a"), ("a", " \t"), ("\u2028", "a")], [("a", "b")]),
        ("too_long", {"max_words": 2}, [("a b c", "a"), ("a", "a b c")], [("a b", "a b")]),
        ("too_long", {"max_characters": 3}, [("abcd", "a"), ("a", "abcd")], [("abc", "abc")]),
        ("ratio", {"max_ratio": 2}, [("a b c", "a"), ("a", "a b c"), ("", "a")], [("a b", "a"), ("", "")]),
        ("identical", {"identical": True}, [("a", "a"), ("a ", "a")], [("a", "A")]),
        ("duplicate", {"duplicate": True}, [], [("ab", "c"), ("a", "bc"), ("a", "b")]),
        ("overlap", {"overlap": True}, [("held", "out"), ("held ", "out")], [("held", "in"), ("out", "held")]),
    ],
)
def test_a_rule_drops_what_it_says_and_nothing_when_it_is_off(rule, options, dropped, kept):
    held_out = [("held", "out")]
    found, report = run([*dropped, *kept], CleaningConfig(**(OFF | options)), held_out)
    assert found == kept
    assert report["rules"][rule]["dropped"] == len(dropped)
    assert report["rules"][rule]["examples"] == [list(pair) for pair in dropped]
    found, _ = run([*dropped, *kept], CleaningConfig(**OFF), held_out)
    assert found == [*dropped, *kept]


def test_of_duplicates_the_first_stays():
    pairs = [("a", "b"), ("a", "c"), ("a", "b"), ("a ", "b")]
    found, report = run(pairs, CleaningConfig(**(OFF | {"duplicate": True})))
    assert found == [("a", "b"), ("a", "c")]
    assert report["rules"]["duplicate"]["dropped"] == 2


@given(st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=30))
def test_seen_hashes_are_a_set(pieces):
    seen, expected = SeenHashes(), set()
    for piece in pieces:
        new = seen.add(np.array(piece, dtype=np.uint64)).tolist()
        assert new == [value not in expected and value not in piece[:index] for index, value in enumerate(piece)]
        expected.update(piece)


def test_seen_hashes_take_eight_bytes_each_in_few_runs():
    generator = np.random.default_rng(1)
    seen = SeenHashes()
    for _ in range(300):
        seen.add(generator.integers(0, 2**63, 1000).astype(np.uint64))
    assert sum(run.nbytes for run in seen._runs) == 300_000 * 8
    assert len(seen._runs) <= 9  # log2 of the 300 pieces


def test_the_first_rule_that_holds_counts():
    config = CleaningConfig(max_words=1, max_ratio=1.0, identical=True, duplicate=True)
    _, report = run([("", ""), ("x y", "x y"), ("x", "x"), ("x", "")], config, [("x", "x")])
    assert {rule: value["dropped"] for rule, value in report["rules"].items() if value["dropped"]} == {
        "empty": 2,
        "too_long": 1,
        "identical": 1,
    }


def test_long_examples_are_cut():
    _, report = run([("a" * 5000, "b")], CleaningConfig())
    assert [len(side) for side in report["rules"]["too_long"]["examples"][0]] == [300, 1]


SAME = {
    "two spaces": "ein  Café",
    "no-break space": "ein\u00a0Café",
    "narrow no-break space": "ein\u202fCafé",
    "decomposed accent": "ein Cafe\u0301",
    "zero-width space": "e\u200bin Café",
    "soft hyphen": "ein Ca\u00adfé",
    "byte order mark": "\ufeffein Café",
    "tab and carriage return": "ein\tCafé\r",
    "wide letters": "ein Ｃafé",
}


@pytest.mark.parametrize("hidden", SAME.values(), ids=SAME)
def test_pairs_that_differ_in_nothing_visible_are_the_same_pair(hidden):
    config = CleaningConfig(duplicate=True, identical=True)
    plain = ("ein Café", "a café")
    for held_out, pairs in (([plain], [(hidden, "a  café")]), ([(hidden, "a café")], [plain])):
        kept, report = run(pairs, config, held_out)
        assert not kept and report["rules"]["overlap"]["dropped"] == 1
    kept, report = run([(hidden, "a café"), plain, ("ein Café.", "a café"), ("eins", "a café")], config)
    assert len(kept) == 3 and kept[0] == (hidden, "a café"), "the first one stays as it stands"
    assert report["rules"]["duplicate"]["dropped"] == 1
    kept, report = run([(hidden, "ein Café")], config)
    assert not kept and report["rules"]["identical"]["dropped"] == 1


def test_case_makes_a_difference_unless_the_tokeniser_folds_it():
    upper, lower = (["EIN Haus"], ["A house"]), (["ein haus"], ["a house"])
    config = CleaningConfig()
    assert examine(upper, config)[1] != examine(lower, config)[1]
    assert examine(upper, config, fold_case=True)[1] == examine(lower, config, fold_case=True)[1]


def test_a_side_of_nothing_visible_is_empty():
    kept, report = run([("\u200b\u00ad", "a"), ("a", "\ufeff \u200e"), ("a", "b")], CleaningConfig())
    assert kept == [("a", "b")] and report["rules"]["empty"]["dropped"] == 2


def test_hashes_keep_the_sides_apart():
    pairs = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("a\0b", "c"), ("a", "\0bc"), ("a:b", "c")]
    _, hashes = examine(sides(pairs), CleaningConfig())
    assert hashes.dtype == np.uint64 and len(set(hashes.tolist())) == len(pairs)
