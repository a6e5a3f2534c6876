"""Tokeniser and subword sampling."""

from __future__ import annotations

import itertools
import json
import math
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.config import TokenizerConfig
from mt.corpus.sampling import SubwordSampler
from mt.corpus.tokenizer import Tokenizer, comparable, load_tokenizer, train_tokenizer, visible
from mt.errors import UserError

SYLLABLES = ["ba", "ko", "li", "mu", "ten", "sor", "fa", "rin", "de", "gu", "hal", "pi", "sch", "ßo", "ün"]


def corpus(lines: int, seed: int = 0) -> tuple[list[str], list[str]]:
    generator = random.Random(seed)
    words = ["".join(generator.choices(SYLLABLES, k=generator.randint(1, 4))) for _ in range(5000)]
    sides = [[" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(lines)] for _ in "ab"]
    return sides[0], [line.upper() for line in sides[1]]


SOURCE, TARGET = corpus(400)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request) -> Tokenizer:
    return train_tokenizer(TokenizerConfig(algorithm=request.param, vocabulary_size=150), SOURCE, TARGET)


def test_special_ids_and_sizes(tokenizer):
    assert (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.begin_id, tokenizer.end_id) == (0, 1, 2, 3)
    assert tokenizer.source_size == tokenizer.target_size == 150
    assert tokenizer.target_pieces([3, 1]) == ["</s>", "<unk>"]


def test_encoding_ends_with_the_end_id_and_decoding_gives_the_text_back(tokenizer):
    for line, ids in zip(SOURCE, tokenizer.encode_source(SOURCE)):
        assert ids[-1] == tokenizer.end_id and tokenizer.begin_id not in ids
        assert tokenizer.decode_source(ids) == line
    ids = tokenizer.encode_target(TARGET[:1])[0]
    assert tokenizer.decode_target([2, *ids, 0, 0]) == TARGET[0]
    assert tokenizer.decode_target(np.array(ids)) == TARGET[0]
    assert "".join(tokenizer.source_pieces(ids[:-1])).replace("▁", " ").strip() == TARGET[0]


def test_training_is_deterministic_and_saving_keeps_the_fingerprint(tokenizer, tmp_path):
    algorithm = "unigram" if tokenizer.encode_source(["x"]) and not _is_bpe(tokenizer) else "bpe"
    again = train_tokenizer(TokenizerConfig(algorithm=algorithm, vocabulary_size=150), SOURCE, TARGET)
    assert again.fingerprint == tokenizer.fingerprint
    tokenizer.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    assert load_tokenizer(tmp_path).encode_source(SOURCE) == tokenizer.encode_source(SOURCE)


def test_separate_models_have_their_own_pieces(tmp_path):
    config = TokenizerConfig(joint=False, vocabulary_size=60)
    separate = train_tokenizer(config, SOURCE, TARGET)
    assert not separate.joint
    separate.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.model", "target.model"]
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == separate.fingerprint
    assert separate.unknown_id in separate.encode_source(["BAKO"])[0]
    assert separate.unknown_id not in separate.encode_target(["BAKO"])[0]
    assert loaded.encode_sampled("target", ["BAKO"], 0.5, 1)[0][-1] == 3
    swapped = Tokenizer((tmp_path / "target.model").read_bytes(), (tmp_path / "source.model").read_bytes())
    assert swapped.fingerprint != separate.fingerprint


@pytest.mark.parametrize("algorithm", ["unigram", "bpe"])
def test_a_vocabulary_too_large_for_the_text_falls_back_with_a_message(algorithm, capsys):
    config = TokenizerConfig(algorithm=algorithm, vocabulary_size=30000)
    small = train_tokenizer(config, SOURCE[:20], TARGET[:20])
    assert 40 < small.source_size < 1500
    error = capsys.readouterr().err
    assert f"holds {small.source_size} pieces" in error and error.count("\n") == 1


def test_a_vocabulary_smaller_than_the_characters_is_an_error():
    with pytest.raises(UserError, match="characters of both sides alone need"):
        train_tokenizer(TokenizerConfig(vocabulary_size=32), SOURCE, [chr(200 + i) for i in range(100)])


def test_no_text_is_an_error():
    for text in ([], ["", " "]):
        with pytest.raises(UserError, match="no text"):
            train_tokenizer(TokenizerConfig(), text, text)


def test_byte_fallback_spells_unknown_characters(capfd):
    config = TokenizerConfig(algorithm="bpe", vocabulary_size=400, byte_fallback=True, normalization="identity")
    tokenizer = train_tokenizer(config, SOURCE, TARGET)
    ids = tokenizer.encode_source(["ba 😀\0ko"])[0]
    assert tokenizer.unknown_id not in ids
    assert tokenizer.decode_target(ids) == "ba 😀\0ko"
    line_feed = tokenizer._target.piece_to_id("<0x0A>")
    assert tokenizer.decode_target([line_feed, line_feed]) == "  ", "a translation is always one line"
    assert tokenizer.encode_sampled("source", ["ba 😀\0ko"], 0.0, 1)[0] == ids
    assert capfd.readouterr().err == "", "SentencePiece itself is silent"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(), max_size=5))
def test_no_characters_make_an_error(lines):
    tokenizer = _small()
    for encoded in (tokenizer.encode_source(lines), tokenizer.encode_sampled("target", lines, 0.5, 1)):
        assert len(encoded) == len(lines)
        for ids in encoded:
            assert ids[-1] == 3 and not {0, 2, 3} & set(ids[:-1])
            assert "\n" not in tokenizer.decode_target(ids)


def test_training_text_with_odd_characters_makes_no_error():
    odd = ["a\0b", "x\u2028y", "\ufeff", "\t", "▁", "\ud800", "<s> </s> <unk>", "", "z" * 20000]
    tokenizer = train_tokenizer(TokenizerConfig(vocabulary_size=200), SOURCE + odd, TARGET + odd)
    assert not {0, 2, 3} & set(tokenizer.encode_source(["<s> </s> <pad>"])[0][:-1]), "text spells no special id"


INVISIBLE = {
    "soft hyphen": "\u00ad",
    "zero-width space": "\u200b",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "left-to-right mark": "\u200e",
    "right-to-left mark": "\u200f",
    "Arabic letter mark": "\u061c",
    "embedding": "\u202b",
    "end of embedding": "\u202c",
    "isolate": "\u2066",
    "end of isolate": "\u2069",
    "text variant": "\ufe0e",
    "emoji variant": "\ufe0f",
    "ideographic variant": "\U000e0101",
    "Mongolian variant": "\u180b",
    "tag": "\U000e0041",
    "invisible times": "\u2062",
    "grapheme joiner": "\u034f",
    "joiner": "\u200d",
    "non-joiner": "\u200c",
    "several": "\u200b\u200d\u2060",
}


@pytest.mark.parametrize("normalization", ["nmt_nfkc", "identity"])
def test_invisible_characters_change_no_ids(normalization):
    config = TokenizerConfig(vocabulary_size=100, normalization=normalization)
    tokenizer = train_tokenizer(config, SOURCE, TARGET)
    plain, sampled = tokenizer.encode_source(["bako li"]), tokenizer.encode_sampled("source", ["bako li"], 0.5, 1)
    for name, character in INVISIBLE.items():
        for line in ("ba{}ko li", "{}bako li", "bako li{}", "bako {} li", "bako{} li", "b{0}a{0}k{0}o li"):
            line = line.format(character)
            assert tokenizer.encode_source([line]) == tokenizer.encode_target([line]) == plain, name
            assert tokenizer.encode_sampled("source", [line], 0.5, 1) == sampled, name
        assert tokenizer.encode_source([f" {character} "]) == [[tokenizer.end_id]], "a blank line"


def test_pieces_are_learnt_from_what_is_visible(tmp_path):
    hidden = [line.replace("a", "a\u00ad").replace(" ", "\u2060 ") for line in SOURCE]
    config = TokenizerConfig(vocabulary_size=100)
    assert train_tokenizer(config, hidden, TARGET).models == train_tokenizer(config, SOURCE, TARGET).models


def test_to_keep_invisible_characters_is_a_setting_that_goes_with_the_model(tmp_path):
    keeps = train_tokenizer(TokenizerConfig(vocabulary_size=100, invisible="keep"), SOURCE, TARGET)
    removes = train_tokenizer(TokenizerConfig(vocabulary_size=100, joint=False), SOURCE, TARGET)
    assert keeps.encode_source(["ba\u00adko"]) != keeps.encode_source(["bako"])
    for tokenizer, invisible in ((keeps, "keep"), (removes, "remove")):
        tokenizer.save(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert loaded.invisible == tokenizer.invisible == invisible
        assert loaded.encode_source(["ba\u00adko"]) == tokenizer.encode_source(["ba\u00adko"])
        (tmp_path / "tokenizer.model").unlink(missing_ok=True)


def test_a_model_of_an_earlier_version_keeps_them_and_is_the_same_but_for_that():
    removes = train_tokenizer(TokenizerConfig(vocabulary_size=100), SOURCE, TARGET)
    earlier = train_tokenizer(TokenizerConfig(vocabulary_size=100, invisible="keep"), SOURCE, TARGET).models[0]
    assert removes.models[0].startswith(earlier), "as SentencePiece itself wrote it"
    assert Tokenizer(earlier).invisible == "keep"
    assert Tokenizer(earlier).encode_source(SOURCE) == removes.encode_source(SOURCE)
    assert Tokenizer(earlier).fingerprint != removes.fingerprint


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian: the letters would join
        ("ക്\u200d ", "ക്\u200d "),  # Malayalam: another letter, also at the end of a word
        ("क्\u200dष", "क्\u200dष"),
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),  # one emoji of two
        ("\u2764\ufe0f\u200d\U0001f525", "\u2764\u200d\U0001f525"),
        ("\U0001f469\u200d x", "\U0001f469 x"),
        ("x\u200d\U0001f469", "x\U0001f469"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e007f\U000e0067", "\U0001f3f4\U000e0067\U000e0062\U000e007f"),  # a flag
        ("\u1820\u180b", "\u1820\u180b"),  # Mongolian
        ("日本\u200b語", "日本語"),
        ("a\u00a0b\u3000c\t\u2028", "a\u00a0b\u3000c\t\u2028"),  # spaces are visible
        ("plain", "plain"),
    ],
)
def test_what_a_reader_sees_is_kept(line, shown):
    assert visible(line) == shown


@settings(max_examples=100, deadline=None)
@given(st.text(), st.text())
def test_lines_with_the_same_ids_are_comparable(first, second):
    tokenizer = _small()
    for line in (first, second, visible(first), f" {first}  "):
        if tokenizer.encode_source([line]) == tokenizer.encode_source([first]):
            known = tokenizer.unknown_id not in tokenizer.encode_source([line])[0]
            assert not known or comparable([line]) == comparable([first])


def test_pieces_that_an_imported_vocabulary_alone_knows_are_decoded_with_spaces():
    models = train_tokenizer(TokenizerConfig(vocabulary_size=100, joint=False, invisible="keep"), SOURCE, TARGET).models
    known = Tokenizer(*models).vocabularies[1][4:]
    pieces = ["</s>", "<unk>", "<pad>", *known, "▁Haus", "▁am▁See", "en"]
    ids = {"pad": 2, "unknown": 1, "begin": 2, "end": 0}
    tokenizer = Tokenizer(*models, json.dumps({**ids, "source": pieces, "target": pieces}).encode())
    last = len(pieces) - 3
    assert tokenizer.decode_target([last, last + 1, last + 2, 0]) == "Haus am Seeen"
    first = tokenizer.encode_target(["BA KO"])[0]
    assert tokenizer.decode_target([*first[:-1], last]) == "BA KO Haus"


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b'{"pad": 0}', b'{"pad": -1, "unknown": 1, "begin": 2, "end": 3, "source": [], "target": []}'],
)
def test_a_damaged_vocabulary_is_one_line(content, tokenizer):
    with pytest.raises(UserError, match=r"^tokeniser: vocabulary\.json: not as expected"):
        Tokenizer(tokenizer.models[0], None, content)


def test_a_damaged_or_missing_model_is_an_error(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"/tokenizer\.model: cannot be read"):
        load_tokenizer(tmp_path)
    tokenizer.save(tmp_path)
    content = (tmp_path / "tokenizer.model").read_bytes()
    for broken in (b"", content[: len(content) // 2], b"x" * 100):
        (tmp_path / "tokenizer.model").write_bytes(broken)
        with pytest.raises(UserError, match=str(tmp_path)):
            load_tokenizer(tmp_path)


# subword sampling


def test_sampling_differs_between_seeds_and_is_the_same_for_one_seed(tokenizer):
    first = tokenizer.encode_sampled("source", SOURCE, 0.3, 1)
    assert first == tokenizer.encode_sampled("source", SOURCE, 0.3, 1)
    other = tokenizer.encode_sampled("source", SOURCE, 0.3, 2)
    assert sum(a != b for a, b in zip(first, other)) > len(SOURCE) / 2
    assert all(tokenizer.decode_source(ids) == line for ids, line in zip(other, SOURCE))


def test_sampling_is_the_same_in_another_process(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "text").write_text("\n".join(SOURCE), encoding="utf-8")
    program = (
        "import sys, pathlib; from mt.corpus.tokenizer import load_tokenizer; "
        "folder = pathlib.Path(sys.argv[1]); lines = (folder / 'text').read_text('utf-8').split('\\n'); "
        "print(load_tokenizer(folder).encode_sampled('source', lines, 0.3, 1))"
    )
    outputs = {
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True).stdout
        for _ in range(2)
    }
    assert outputs == {f"{tokenizer.encode_sampled('source', SOURCE, 0.3, 1)}\n".encode()}


def test_sampling_in_the_limit_is_the_best_segmentation(tokenizer):
    limit = 0.0 if _is_bpe(tokenizer) else 1e6  # no merge dropped; all weight on the most probable
    lines = [*SOURCE, "", "x😀 ba", "ba" * 100]
    assert tokenizer.encode_sampled("source", lines, limit, 1) == tokenizer.encode_source(lines)


def test_dropping_every_merge_leaves_characters():
    tokenizer = _small("bpe")
    ids = tokenizer.encode_sampled("source", ["bako li"], 1.0, 1)[0]
    assert tokenizer.source_pieces(ids[:-1]) == list("▁bako▁li")


def test_unigram_samples_follow_the_model_to_the_power_of_alpha():
    """Against all segmentations of a word, enumerated; 20,000 draws, deviation below 5 standard errors."""
    tokenizer = _small("unigram")
    processor, word, alpha, draws = tokenizer._source, "▁bakoli", 0.4, 20_000
    scores = {processor.id_to_piece(i): processor.get_score(i) for i in range(4, processor.get_piece_size())}
    weights = {}
    for cuts in itertools.product([False, True], repeat=len(word) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]
        pieces = tuple(word[a:b] for a, b in zip([0, *ends], ends))
        if all(piece in scores for piece in pieces):
            weights[pieces] = math.exp(alpha * sum(scores[piece] for piece in pieces))
    total = sum(weights.values())
    sampled = tokenizer.encode_sampled("source", ["bakoli"] * draws, alpha, 3)
    counts = Counter(tuple(tokenizer.source_pieces(ids[:-1])) for ids in sampled)
    assert set(counts) <= set(weights) and len(weights) > 5
    for pieces, weight in weights.items():
        expected = weight / total
        error = math.sqrt(expected * (1 - expected) / draws)
        assert abs(counts[pieces] / draws - expected) <= 5 * error + 1e-9


def test_bpe_dropout_follows_its_definition():
    """Against a plain one-word-at-a-time version of the algorithm, merge by merge; 4,000 draws each."""
    tokenizer = _small("bpe")
    processor, dropout, draws = tokenizer._source, 0.3, 4000
    ranks = {processor.id_to_piece(i): processor.get_score(i) for i in range(4, processor.get_piece_size())}
    generator = random.Random(1)

    def plain(word):
        symbols = list(word)
        while True:
            merges = [
                (ranks[a + b], -place)
                for place, (a, b) in enumerate(itertools.pairwise(symbols))
                if a + b in ranks and generator.random() >= dropout
            ]
            if not merges:
                return tuple(symbols)
            place = -max(merges)[1]
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]

    expected = Counter(plain("▁bakoli") for _ in range(draws))
    sampled = tokenizer.encode_sampled("source", ["bakoli"] * draws, dropout, 3)
    counts = Counter(tuple(tokenizer.source_pieces(ids[:-1])) for ids in sampled)
    assert len(expected) > 3
    for pieces in set(expected) | set(counts):
        share = (expected[pieces] + counts[pieces]) / (2 * draws)
        assert abs(expected[pieces] - counts[pieces]) <= 5 * math.sqrt(2 * draws * share * (1 - share)) + 1


def test_words_drawn_from_a_full_memory_are_the_same(monkeypatch):
    tokenizer = _small()
    expected = tokenizer.encode_sampled("source", SOURCE, 0.3, 1)
    monkeypatch.setattr("mt.corpus.sampling._REMEMBERED", 3)
    assert SubwordSampler(tokenizer._source).encode(SOURCE, 0.3, 1) == expected


_trained: dict[str, Tokenizer] = {}


def _small(algorithm: str = "unigram") -> Tokenizer:
    if algorithm not in _trained:
        config = TokenizerConfig(algorithm=algorithm, vocabulary_size=150)
        _trained[algorithm] = train_tokenizer(config, SOURCE, TARGET)
    return _trained[algorithm]


def _is_bpe(tokenizer: Tokenizer) -> bool:
    return tokenizer.fingerprint == _small("bpe").fingerprint
