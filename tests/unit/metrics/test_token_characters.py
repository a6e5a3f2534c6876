"""Which characters of a translation its tokens stand for."""

from __future__ import annotations

import io
import random

import pytest
import sentencepiece

from mt.metrics.labels import characters_of_tokens


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        (["▁a", "▁do", "g", "</s>"], "a dog", [[0], [2, 3], [4], []]),
        (["▁of▁the", "▁dog"], "of the dog", [[0, 1, 3, 4, 5], [7, 8, 9]]),  # a piece across a space
        (["▁a", "▁", "dog"], "a dog", [[0], [2], [2, 3, 4]]),  # a lone space stands for what it begins
        (["▁a", "▁", "</s>"], "a", [[0], [], []]),
        (["▁a", "<0xE2>", "<0x82>", "<0xAC>", "b"], "a€b", [[0], [1], [1], [1], [2]]),
        (["▁<0x>", "<0xFF>", "<0xC3>", "<0xBC>"], "<0x>\ufffdü", [[0, 1, 2, 3], [4], [5], [5]]),
        (["▁a", "<0x0A>", "b"], "a b", [[0], [2], [2]]),  # a line feed comes out as a space
        (["<s>", "▁a", "<unk>", "</s>", "▁b", "</s>"], "a ⁇ b", [[], [0], [2], [], [4], []]),
        (["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "x"], "😀x", [[0], [0], [0], [0], [0], [1]]),
        (["wal@@", "king", "home"], "walking home", [[0, 1, 2], [3, 4, 5, 6], [8, 9, 10, 11]]),
        (["▁a", "b"], "ac", None),
        (["▁a"], "ab", None),
        ([], "", []),
    ],
)
def test_tokens_stand_for_the_characters_that_they_spell(
    tokens: list[str], text: str, expected: list[list[int]] | None
) -> None:
    assert characters_of_tokens(tokens, text) == expected


def test_any_pieces_are_placed_in_what_sentencepiece_makes_of_them() -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the big dog of the house", "ein Hund läuft", "weiter of the"] * 20),
        model_writer=model,
        vocab_size=300,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_by_whitespace=False,
        pad_id=0,
        unk_id=1,
        bos_id=2,
        eos_id=3,
        unk_surface="⁇",
        minloglevel=3,
    )
    processor, chooser = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()), random.Random(1)
    across = False
    for _ in range(2000):
        ids = [*chooser.choices(range(processor.get_piece_size()), k=chooser.randrange(1, 12)), 3]
        text, tokens = processor.decode(ids).replace("\n", " "), [processor.id_to_piece(each) for each in ids]
        places = characters_of_tokens(tokens, text)
        assert places is not None
        assert {place for each in places for place in each} == {n for n, c in enumerate(text) if not c.isspace()}
        for token, own in zip(tokens, places):
            if token.strip("▁") and not token.startswith("<"):
                assert "".join(text[place] for place in own) == token.replace("▁", "")
                across |= "▁" in token.strip("▁")
    assert across
