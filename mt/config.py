"""Every setting of a run, as frozen dataclasses.

This module imports neither torch nor the rest of mt, so that `--help` and a config error answer at once.
A value out of range raises ValueError with the name, the value and what is allowed; the command line turns
it into one line with exit code 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Optional


def _require(condition: bool, name: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")


@dataclass(frozen=True, kw_only=True)
class GrammarConfig:
    """Pairs drawn from the grammar that the project ships."""

    pairs: int
    """number of sentence pairs to draw"""
    seed: int = 1
    """seed of the draw"""
    languages: list[str] = field(default_factory=lambda: ["de", "en"])
    """source and target language: two of de, en, fr"""

    def __post_init__(self) -> None:
        _require(self.pairs > 0, "grammar.pairs", self.pairs, "at least 1")
        known = {"de", "en", "fr"}
        _require(
            len(self.languages) == 2 and len(set(self.languages)) == 2 and set(self.languages) <= known,
            "grammar.languages",
            self.languages,
            "two different ones of de, en, fr",
        )


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One parallel corpus: two lists of files, one list of files with both sides, a hub name, or the grammar."""

    source: list[str] = field(default_factory=list)
    """plain or gzip text files of the source side, in order, one sentence a line"""
    target: list[str] = field(default_factory=list)
    """plain or gzip text files of the target side, in the same order"""
    files: list[str] = field(default_factory=list)
    """files that hold both sides: .tsv, .csv, .jsonl, .json or .parquet (.gz too, except Parquet)"""
    hub: str = ""
    """name of a data set on the Hugging Face hub, or a local folder that `datasets` can load"""
    hub_config: str = ""
    """configuration name of the hub data set"""
    split: str = "train"
    """split of the hub data set, or of the grammar (train, valid, test)"""
    columns: list[str] = field(default_factory=list)
    """names of the source and target column (a dot reaches into a nested field: translation.de); for TSV
    without a header two column numbers from 0; empty: the language codes, or the first two TSV columns"""
    grammar: Optional[GrammarConfig] = None
    """draw pairs from the shipped grammar"""
    weight: float = 1.0
    """how often each pair of this corpus is seen in an epoch: 2 means twice, 0.5 every second epoch"""

    def __post_init__(self) -> None:
        given = [name for name in ("source", "target", "files", "hub", "grammar") if getattr(self, name)]
        _require(
            given in (["source", "target"], ["source"], ["target"], ["files"], ["hub"], ["grammar"]),
            "a corpus",
            " and ".join(given),
            "given by exactly one of: source and target, files, hub, grammar",
        )
        _require(
            len(self.source) == len(self.target),
            "source and target",
            [self.source, self.target],
            "lists of equally many files",
        )
        _require(len(self.columns) in (0, 2), "columns", self.columns, "two names: source and target")
        _require(0 < self.weight <= 100, "weight", self.weight, "above 0 and at most 100")


@dataclass(frozen=True, kw_only=True)
class CleaningConfig:
    """Which training pairs are dropped. Every dropped pair is counted under its rule in `cleaning.json`."""

    empty: bool = True
    """drop pairs with an empty or white-space side"""
    max_words: int = 250
    """drop pairs with more white-space separated words on a side; 0: keep all"""
    max_characters: int = 3000
    """drop pairs with more characters on a side; 0: keep all"""
    max_ratio: float = 0.0
    """drop pairs whose word counts differ by more than this factor; 0: keep all"""
    identical: bool = False
    """drop pairs whose sides are equal"""
    duplicate: bool = False
    """drop pairs that were seen before"""
    overlap: bool = True
    """drop training pairs that also stand in the validation or test data"""
    examples: int = 5
    """how many dropped pairs to show in the report for each rule"""

    def __post_init__(self) -> None:
        for name in ("max_words", "max_characters", "max_ratio", "examples"):
            _require(getattr(self, name) >= 0, f"cleaning.{name}", getattr(self, name), "0 or more")
        _require(self.max_ratio == 0 or self.max_ratio >= 1, "cleaning.max_ratio", self.max_ratio, "0 or at least 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text comes from and how it is cleaned."""

    source_language: str
    """language code of the source side"""
    target_language: str
    """language code of the target side"""
    train: list[CorpusConfig]
    """training corpora, mixed by weight"""
    valid: list[CorpusConfig]
    """validation corpora, concatenated"""
    test: list[CorpusConfig] = field(default_factory=list)
    """test corpora: never trained on; training pairs that stand in them are dropped"""
    root: str = "."
    """folder that relative file names start from"""
    cache: str = ""
    """folder for prepared data; empty: `cache` inside the run directory's parent"""
    cleaning: CleaningConfig = field(default_factory=CleaningConfig)

    def __post_init__(self) -> None:
        _require(bool(self.train), "data.train", self.train, "a list of at least one corpus")
        _require(bool(self.valid), "data.valid", self.valid, "a list of at least one corpus")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """The SentencePiece model, trained on the cleaned training text of the run."""

    algorithm: Literal["bpe", "unigram"] = "unigram"
    """how pieces are learnt"""
    joint: bool = True
    """one model for both languages, or one each"""
    vocabulary_size: int = 8000
    """pieces (of each model); fewer where the text is too small to hold so many"""
    byte_fallback: bool = False
    """spell unknown characters in bytes"""
    character_coverage: float = 1.0
    """share of the characters that get a piece of their own"""
    normalization: Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"] = "nmt_nfkc"
    """SentencePiece's normalisation rule; those with _cf fold case"""
    training_sentences: int = 2_000_000
    """at most so many sentences are sampled for learning the pieces"""
    sampling: float = 0.0
    """subword sampling, a new segmentation each epoch: BPE dropout probability, or unigram smoothing alpha
    (Kudo 2018); 0: off"""
    sampling_side: Literal["source", "both"] = "both"
    """which side is sampled"""

    def __post_init__(self) -> None:
        _require(self.vocabulary_size >= 32, "tokenizer.vocabulary_size", self.vocabulary_size, "at least 32")
        _require(0 <= self.sampling <= 1, "tokenizer.sampling", self.sampling, "0 to 1")
        _require(
            0.9 <= self.character_coverage <= 1, "tokenizer.character_coverage", self.character_coverage, "0.9 to 1"
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The Transformer encoder-decoder (Vaswani et al. 2017), one width throughout."""

    width: int = 256
    """size of embeddings and hidden states"""
    encoder_layers: int = 3
    decoder_layers: int = 3
    encoder_heads: int = 4
    decoder_heads: int = 4
    encoder_feed_forward: int = 1024
    """inner size of the encoder's feed-forward layers"""
    decoder_feed_forward: int = 1024
    """inner size of the decoder's feed-forward layers"""
    norm: Literal["pre", "post"] = "pre"
    """layer norm before each sublayer, or after its residual sum"""
    activation: Literal["relu", "gelu", "silu", "swiglu"] = "relu"
    """feed-forward activation; swiglu is the gated form (Shazeer 2020)"""
    positions: Literal["sinusoidal", "sinusoidal_half", "rotary"] = "sinusoidal"
    """absolute sinusoids (Vaswani et al. 2017), the same with all sines before all cosines (as in Marian), or rotary
    positions (Su et al. 2021)"""
    tie: Literal["none", "target", "all"] = "all"
    """share embeddings: no sharing, target input with output, or source, target input and output"""
    output_bias: bool = False
    """add a learnt number to the score of each class"""
    dropout: float = 0.1
    """dropout on sublayer outputs, before the residual sum"""
    embedding_dropout: float = 0.1
    """dropout on embeddings plus positions"""
    attention_dropout: float = 0.0
    """dropout on attention weights"""
    activation_dropout: float = 0.0
    """dropout inside the feed-forward layers"""

    def __post_init__(self) -> None:
        for name in (
            "width",
            "encoder_layers",
            "decoder_layers",
            "encoder_heads",
            "decoder_heads",
            "encoder_feed_forward",
            "decoder_feed_forward",
        ):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "at least 1")
        for name in ("encoder_heads", "decoder_heads"):
            heads = getattr(self, name)
            _require(self.width % heads == 0, f"model.{name}", heads, f"a divisor of model.width, {self.width}")
            _require(
                self.positions != "rotary" or self.width // heads % 2 == 0,
                f"model.{name}",
                heads,
                "such that each head has an even size (rotary positions)",
            )
        _require(
            self.positions == "rotary" or self.width % 2 == 0, "model.width", self.width, "even (sinusoidal positions)"
        )
        for name in ("dropout", "embedding_dropout", "attention_dropout", "activation_dropout"):
            _require(0 <= getattr(self, name) < 1, f"model.{name}", getattr(self, name), "at least 0 and below 1")


_SMOOTHED: dict[str, Any] = {"smoothing": 0.1, "definition": "uniform_nopad"}
_LOSSES: dict[str, dict[str, Any]] = {
    "label_smoothed_kl": _SMOOTHED,
    "encouraging": {**_SMOOTHED, "log_end": 0.5, "bonus_smoothing": None, "exclude_special": True, "reference": False},
    "focal": {"gamma": 2.0},
    "inverse_focal": {"gamma": 1.0, "scale": 1.0},
    "confidence_penalty": {"beta": 0.1},
    "r_drop": {**_SMOOTHED, "alpha": 5.0},
}
"""the fields of each loss, with their defaults"""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The training loss: `name` picks it; a field of another loss is an error. docs/losses.md explains them."""

    name: Literal["label_smoothed_kl", "encouraging", "focal", "inverse_focal", "confidence_penalty", "r_drop"] = (
        "label_smoothed_kl"
    )
    smoothing: Optional[float] = None
    """label_smoothed_kl, encouraging, r_drop: label smoothing weight (default 0.1); 0: hard targets"""
    definition: Optional[Literal["uniform", "others", "uniform_nopad", "others_nopad", "scatter", "unigram"]] = None
    """label_smoothed_kl, encouraging, r_drop: how the smoothing mass is spread over the vocabulary (default:
    uniform_nopad)"""
    log_end: Optional[float] = None
    """encouraging: the bonus follows log(1 - p) up to this probability, then its tangent (default 0.5)"""
    bonus_smoothing: Optional[float] = None
    """encouraging: smoothing weight of the bonus (default: the same as smoothing)"""
    exclude_special: Optional[bool] = None
    """encouraging: padding and beginning-of-sentence classes get no smoothing mass and no bonus (default true)"""
    reference: Optional[bool] = None
    """encouraging: as the published code computes it, for comparison: 1 - p clamped, all classes smoothed over
    (default false)"""
    gamma: Optional[float] = None
    """focal, inverse_focal: exponent of the factor 1 - p (default 2) or 1 + scale * p (default 1)"""
    scale: Optional[float] = None
    """inverse_focal: how much p counts in that factor (default 1)"""
    beta: Optional[float] = None
    """confidence_penalty: weight of the entropy (default 0.1)"""
    alpha: Optional[float] = None
    """r_drop: weight of the divergence between two passes (default 5)"""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, owners = getattr(self, item.name), [name for name, own in _LOSSES.items() if item.name in own]
            _require(
                item.name == "name" or value is None or self.name in owners,
                f"loss.{item.name}",
                value,
                f"left out: it belongs to {', '.join(owners)}, and loss.name is {self.name}",
            )
        for name in ("smoothing", "bonus_smoothing"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < 1, f"loss.{name}", value, "at least 0 and below 1")
        for name in ("gamma", "scale", "beta", "alpha"):
            value = getattr(self, name)
            _require(value is None or 0 <= value < math.inf, f"loss.{name}", value, "0 or more")
        _require(self.log_end is None or 0 <= self.log_end <= 1, "loss.log_end", self.log_end, "0 to 1")
        if self.reference:
            for name, published in (("definition", "uniform"), ("exclude_special", False)):
                value = getattr(self, name)
                _require(
                    value in (None, published),
                    f"loss.{name}",
                    value,
                    f"{published} or left out: so is the published code, and loss.reference is true",
                )

    def settings(self) -> dict[str, Any]:
        """The fields of this loss, with defaults where none is given."""
        given = {name: getattr(self, name) for name in _LOSSES[self.name]}
        defaults = dict(_LOSSES[self.name])
        if self.reference:
            defaults |= {"definition": "uniform", "exclude_special": False}
        return {name: defaults[name] if value is None else value for name, value in given.items()}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    max_epochs: int = 0
    """stop after so many passes over the data; 0: no limit"""
    max_steps: int = 0
    """stop after so many updates; 0: no limit"""
    budget_minutes: float = 0.0
    """stop after so many minutes, preparation and validation included: after a few updates their time is turned into
    a number of updates, which the checkpoints keep; 0: no limit"""
    batch_tokens: int = 4096
    """most positions of a batch on either side, padding included"""
    max_length: int = 256
    """pairs with more tokens on a side (end of sentence included) are not trained on, and counted"""
    accumulate: int = 1
    """batches summed into one update; processes share them, so there are at most so many"""
    activation_checkpointing: bool = False
    """keep what enters each layer and compute the rest again for the gradient: a third slower, far less memory"""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """AdamW, or Muon for the matrices inside the layers beside AdamW for the rest"""
    learning_rate: float = 1e-3
    """peak learning rate"""
    schedule: Literal["inverse_sqrt", "cosine", "warmup_stable_decay", "constant"] = "inverse_sqrt"
    """after the warm-up: proportional to 1 / sqrt(step), a half cosine down to the end of training, flat with a
    straight line down over the last decay_share of training, or flat"""
    warmup_steps: int = 1000
    """updates of linear warm-up from 0"""
    final_learning_rate: float = 0.0
    """cosine, warmup_stable_decay: learning rate at the last update"""
    decay_share: float = 0.2
    """warmup_stable_decay: share of all updates over which the learning rate falls"""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """AdamW's decay rates"""
    epsilon: float = 1e-9
    """AdamW's epsilon"""
    weight_decay: float = 0.0
    """decoupled weight decay, on matrices only"""
    clip_norm: float = 1.0
    """largest gradient norm; 0: no clipping"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """bfloat16 autocast, float32, or bfloat16 where the GPU has it"""
    ema_decay: float = 0.0
    """exponential moving average of the weights, used for validation and saved as the model; 0: off"""
    validate_every: int = 0
    """updates between validations; 0: after each epoch"""
    checkpoint_every: int = 0
    """updates between checkpoints; 0: at each validation"""
    keep_checkpoints: int = 5
    """newest checkpoints kept, the best one aside"""
    best_by: Literal["nll", "perplexity", "accuracy", "ece", "bleu", "chrf"] = "bleu"
    """validation figure that picks the best checkpoint"""
    patience: int = 0
    """stop after so many validations without a better best_by; 0: never"""
    average: Literal["none", "last", "best"] = "none"
    """at the end average the weights of the last or the best checkpoints; kept as best if it validates better"""
    average_count: int = 5
    """how many checkpoints are averaged"""
    init_from: str = ""
    """model or run directory to start from: its weights and its tokeniser (fine-tuning)"""
    log_every: int = 50
    """updates between lines of log.jsonl"""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "max_steps", "validate_every", "checkpoint_every", "patience", "warmup_steps"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        _require(0 <= self.budget_minutes < math.inf, "train.budget_minutes", self.budget_minutes, "0 or more")
        _require(
            self.max_epochs > 0 or self.max_steps > 0 or self.budget_minutes > 0,
            "train.max_epochs",
            self.max_epochs,
            "above 0, or train.max_steps or train.budget_minutes: training needs an end",
        )
        _require(0 < self.decay_share <= 1, "train.decay_share", self.decay_share, "above 0 and at most 1")
        for name in ("batch_tokens", "max_length", "accumulate", "keep_checkpoints", "average_count", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "at least 1")
        _require(
            self.max_length <= self.batch_tokens,
            "train.max_length",
            self.max_length,
            f"at most train.batch_tokens, {self.batch_tokens}",
        )
        _require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "train.betas",
            self.betas,
            "two numbers, at least 0 and below 1",
        )
        for name in ("weight_decay", "clip_norm", "final_learning_rate"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 or more")
        _require(self.epsilon > 0, "train.epsilon", self.epsilon, "above 0")
        _require(0 <= self.ema_decay < 1, "train.ema_decay", self.ema_decay, "at least 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How sentences are translated, in validation and by `translate.py`, unless told otherwise."""

    beam: int = 5
    """hypotheses kept at each position"""
    length_penalty: Literal["none", "average", "gnmt", "reward"] = "average"
    """divide the score by nothing, by length ** alpha, or by GNMT's ((5 + length) / 6) ** alpha; reward:
    add alpha a token"""
    length_alpha: float = 1.0
    """exponent of the length penalty, or the reward"""
    stop: Literal["exact", "first_beam", "no_gain"] = "first_beam"
    """a sentence is done: when nothing better can come; when `beam` outputs are finished; or then, but only if the
    best unfinished one would not beat the worst of them"""
    min_length: int = 1
    """fewest tokens of an output, end of sentence included"""
    no_repeat_ngram: int = 0
    """so many tokens in a row never stand twice in an output; 0: they may"""
    max_length: int = 256
    """longest source, in tokens: what is beyond is cut and counted"""
    max_length_ratio: float = 2.0
    """longest output: this times the source length, plus max_length_extra"""
    max_length_extra: int = 20
    """tokens added to the longest output"""
    batch_tokens: int = 8192
    """most positions of a batch, beams included"""

    def __post_init__(self) -> None:
        for name in ("beam", "min_length", "max_length", "max_length_extra", "batch_tokens"):
            _require(getattr(self, name) >= 1, f"decode.{name}", getattr(self, name), "at least 1")
        _require(self.no_repeat_ngram >= 0, "decode.no_repeat_ngram", self.no_repeat_ngram, "0 or more")
        _require(self.length_alpha >= 0, "decode.length_alpha", self.length_alpha, "0 or more")
        _require(self.max_length_ratio >= 0, "decode.max_length_ratio", self.max_length_ratio, "0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run: raw text to trained model."""

    run_dir: str
    """folder of the run: log, checkpoints, curves"""
    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    seed: int = 1
    """seed of initialisation, dropout, order and sampling"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train; auto: a GPU where there is one"""
    threads: int = 0
    """processor threads; 0: as many as there are cores"""

    def __post_init__(self) -> None:
        _require(bool(self.run_dir), "run_dir", self.run_dir, "the folder of the run")
        _require(
            self.tokenizer.joint or self.model.tie != "all" or bool(self.train.init_from),
            "model.tie",
            self.model.tie,
            "none or target when tokenizer.joint is false",
        )
        _require(self.threads >= 0, "threads", self.threads, "0 or more")
        _require(self.train.max_length <= 4096, "train.max_length", self.train.max_length, "at most 4096")
