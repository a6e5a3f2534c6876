"""Quality figures against sacreBLEU called directly, and against numbers worked out by hand."""

from __future__ import annotations

import math
import random

import pytest
import sacrebleu.tokenizers.tokenizer_ja_mecab
from sacrebleu.metrics import BLEU, CHRF, TER

from mt.errors import UserError
from mt.metrics.quality import (
    bleu_tokenizer,
    check_bleu,
    corpus_quality,
    looks_tokenized,
    quality_differences,
    sentence_chrf,
)

WORDS = ["a", "the", "dog", "cat", "man", "woman", "runs", "sleeps", ",", ".", "in", "on", "park", "House"]


def corpus(lines: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """References of random words, and hypotheses with every fifth word changed."""
    chooser = random.Random(seed)
    references = [" ".join(chooser.choices(WORDS, k=chooser.randint(4, 14))) for _ in range(lines)]
    hypotheses = [
        " ".join(chooser.choice(WORDS) if chooser.random() < 0.2 else word for word in line.split())
        for line in references
    ]
    return hypotheses, references


def test_scores_and_signatures_are_those_of_sacrebleu() -> None:
    hypotheses, references = corpus(60)
    quality = corpus_quality(hypotheses, [references], resamples=0, seed=1)
    for key, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        expected = metric.corpus_score(hypotheses, [references])
        assert quality[key]["score"] == pytest.approx(expected.score, abs=1e-9)
        assert quality[key]["signature"] == str(metric.get_signature())
        assert quality[key]["low"] is None and quality[key]["high"] is None


def test_bleu_of_a_sentence_worked_out_by_hand() -> None:
    # "the cat sat on the red mat" against "the cat sat on the mat": 6/7 unigrams, 4/6 bigrams, 3/5 trigrams,
    # 2/4 fourgrams, no brevity penalty; 7 words against 6.
    quality = corpus_quality(["the cat sat on the red mat"], [["the cat sat on the mat"]], resamples=0, seed=1)
    expected = 100 * math.exp(sum(math.log(p) for p in (6 / 7, 4 / 6, 3 / 5, 2 / 4)) / 4)
    assert quality["bleu"]["score"] == pytest.approx(expected)
    assert quality["length_ratio"] == pytest.approx(7 / 6)
    assert quality["ter"]["score"] == pytest.approx(100 / 6)  # one word too many, six in the reference


def test_a_second_reference_helps() -> None:
    hypotheses = ["the dog runs in the big park"]
    one = corpus_quality(hypotheses, [["a man sleeps on the big sofa"]], resamples=0, seed=1)
    both = corpus_quality(hypotheses, [["a man sleeps on the big sofa"], hypotheses], resamples=0, seed=1)
    assert both["bleu"]["score"] == pytest.approx(100)
    assert both["ter"]["score"] == 0
    assert one["bleu"]["score"] < 50
    assert both["bleu"]["signature"].startswith("nrefs:2|")


def test_intervals_are_those_of_sacrebleus_percentile_bootstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    hypotheses, references = corpus(80)
    monkeypatch.setenv("SACREBLEU_SEED", "77")
    quality = corpus_quality(hypotheses, [references], resamples=200, seed=77)
    for key, metric in (("bleu", BLEU()), ("chrf", CHRF()), ("ter", TER())):
        expected = metric.corpus_score(hypotheses, [references], n_bootstrap=200)
        half_width = (quality[key]["high"] - quality[key]["low"]) / 2
        assert half_width == pytest.approx(expected._ci, rel=1e-4)
        assert quality[key]["low"] < quality[key]["score"] < quality[key]["high"]
        assert "|bs:200|seed:77|" in quality[key]["signature"]


def test_the_seed_alone_decides_the_intervals() -> None:
    hypotheses, references = corpus(40)
    first, again, other = (
        corpus_quality(hypotheses, [references], resamples=100, seed=seed, ter=False) for seed in (3, 3, 4)
    )
    assert first == again
    assert first["bleu"]["low"] != other["bleu"]["low"]


def test_tokenized_lowercased_bleu_ignores_case_and_tokenises_by_13a() -> None:
    hypotheses, references = corpus(30)
    quality = corpus_quality([line.upper() for line in hypotheses], [references], resamples=0, seed=1, ter=False)
    expected = BLEU(lowercase=True).corpus_score(hypotheses, [references]).score
    assert quality["bleu_tokenized_lowercased"]["score"] == pytest.approx(expected)
    assert quality["bleu"]["score"] < expected
    assert "tok:none" in quality["bleu_tokenized_lowercased"]["signature"]
    assert quality["bleu_tokenized_lowercased"]["signature"].startswith("text:13a-tokenized,lowercased|")
    assert "ter" not in quality


def test_empty_hypotheses_count_only_where_there_was_something_to_translate() -> None:
    hypotheses, references = ["", " ", "a b c", ""], ["a b c d", "b", "a b c", ""]
    assert corpus_quality(hypotheses, [references], resamples=0, seed=1)["empties"] == 3
    sources = ["x", "y", "z", " "]
    assert corpus_quality(hypotheses, [references], sources=sources, resamples=0, seed=1)["empties"] == 2


def test_nothing_but_empty_lines_scores_zero() -> None:
    quality = corpus_quality(["", ""], [["", ""]], resamples=10, seed=1)
    assert quality["bleu"]["score"] == 0
    assert quality["length_ratio"] == 0


def test_streams_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2 hypotheses and reference streams of \[2, 1\] lines"):
        corpus_quality(["a", "b"], [["a", "b"], ["a"]], resamples=0, seed=1)
    with pytest.raises(ValueError):
        corpus_quality([], [[]], resamples=0, seed=1)


def test_many_lines_with_a_lone_full_stop_look_tokenised() -> None:
    assert looks_tokenized(["a b ."] * 100 + ["a b."] * 50)
    assert not looks_tokenized(["a b ."] * 99 + ["a b."] * 50)


def test_sentence_chrf_tells_the_worst_line() -> None:
    scores = sentence_chrf(["a man runs", "xyz", ""], [["a man runs", "a dog", "b"], ["no", "xyz", "c"]])
    assert scores == pytest.approx([100, 100, 0])
    assert sentence_chrf(["xyz"], [["a dog"]]) == [0]


CHINESE = ["今天下午我们去公园散步。", "她昨天买了一本旧书。", "那只黑狗在院子里跑。", "老师正在教室里上课。"]
NEARLY = ["今天下午我们去公园走走。", "她昨天买了一本新书。", "这只黑狗在院子里跑。", "老师正在教室里讲课。"]


def test_chinese_lines_score_as_sacrebleus_own_choice_of_tokeniser_does() -> None:
    quality = corpus_quality(NEARLY, [CHINESE], language="zh_CN", resamples=20)
    metric = BLEU(trg_lang="zh")
    assert quality["bleu"]["score"] == pytest.approx(metric.corpus_score(NEARLY, [CHINESE]).score)
    assert quality["bleu"]["score"] > 50
    assert "|tok:zh|" in quality["bleu"]["signature"]
    assert corpus_quality(NEARLY, [CHINESE])["bleu"]["score"] == 0  # 13a: each line is one word
    assert quality["bleu_tokenized_lowercased"]["score"] == pytest.approx(quality["bleu"]["score"])
    assert quality["bleu_tokenized_lowercased"]["signature"].startswith("text:zh-tokenized,lowercased|")
    assert 0 < quality["bleu"]["low"] < quality["bleu"]["score"] < quality["bleu"]["high"] <= 100


def test_ter_of_chinese_counts_characters() -> None:
    quality = corpus_quality(NEARLY, [CHINESE], language="zho_Hans")
    assert 0 < quality["ter"]["score"] < 20 and "asian:yes" in quality["ter"]["signature"]  # one or two of ten each


def test_differences_of_chinese_systems_are_measured_with_the_same_tokeniser() -> None:
    systems = [
        [{"translation": text, "reference": reference} for text, reference in zip(texts, CHINESE)]
        for texts in (NEARLY, CHINESE)
    ]
    scores = [corpus_quality(texts, [CHINESE], language="zh")["bleu"]["score"] for texts in (NEARLY, CHINESE)]
    assert quality_differences(systems, "zh")["bleu"][0]["difference"] == pytest.approx(scores[1] - scores[0])


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("zh", "zh zh-CN zh_TW zh-Hant-HK zho zho_Hans cmn cmn_Hant >>cmn_Hans<< yue Chinese"),
        ("ja-mecab", "ja ja_JP ja_XX jpn jpn_Jpan Japanese"),
        ("ko-mecab", "ko ko-KR kor_Hang"),
        ("13a", "de en en_XX deu_Latn th tha_Thai zu kok jav target x"),
    ],
)
def test_codes_of_a_language_have_one_tokeniser(name: str, languages: str) -> None:
    assert {bleu_tokenizer(language) for language in languages.split()} == {name}
    assert bleu_tokenizer(None) == bleu_tokenizer("") == "13a"


def test_a_tokeniser_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sacrebleu.tokenizers.tokenizer_ja_mecab, "MeCab", None)
    with pytest.raises(UserError, match=r'ja_JP.*ja-mecab.*pip install "sacrebleu\[ja\]"') as raised:
        check_bleu("ja_JP")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("texts", [["วันนี้เราไปเดินเล่น", "สวัสดี 5"], [*CHINESE, "OK"], ["ဒီနေ့"], ["ថ្ងៃនេះ"], ["かな"]])
def test_where_13a_finds_no_words_chrf_is_recommended(texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    check_bleu("xx", texts)
    said = capsys.readouterr().err
    assert "xx" in said and "chrF" in said and said.count("\n") == 1
    check_bleu("zh", texts)
    check_bleu("en", ["a man", "a dog", "東京 means Tokyo"])
    check_bleu(None)
    assert not capsys.readouterr().err
