"""Every setting of a run, as frozen dataclasses: field, help (the string below it) and range (its type) in one place.

Nothing here imports torch, so that `--help` and a config error answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from mt.loss_config import LossConfig as LossConfig
from mt.search_config import DecodeConfig as DecodeConfig
from mt.search_config import SearchConfig as SearchConfig
from mt.settings import AboveZero, Allowed, BelowOne, Count, NotNegative, Section, Seed, Share, Threads, Whole, within

Dropout: TypeAlias = Annotated[float, within(0, 0.99)]


@dataclass(frozen=True, kw_only=True)
class GrammarConfig(Section):
    """Pairs drawn from the grammar that the project ships."""

    pairs: Annotated[int, within(1, 10**9)]
    """number of sentence pairs to draw"""
    seed: Seed = 1
    """seed of the draw"""
    languages: list[str] = field(default_factory=list)
    """source and target language, if given those of the data section: two of de, en, fr"""

    def _check(self) -> None:
        known = {"de", "en", "fr"}
        two = len(self.languages) == 2 and len(set(self.languages)) == 2 and set(self.languages) <= known
        self._require(not self.languages or two, "languages", "two different ones of de, en, fr")


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Section):
    """One parallel corpus: two lists of files, one list of files with both sides, a hub name, or the grammar."""

    source: list[str] = field(default_factory=list)
    """text files of the source side, plain or packed by gzip, bzip2 or xz, in order, one sentence a line"""
    target: list[str] = field(default_factory=list)
    """text files of the target side, in the same order"""
    files: list[str] = field(default_factory=list)
    """files that hold both sides: .tsv or .txt with tabs, .csv, .jsonl, .json, .tmx (packed, too) or .parquet"""
    delimiter: str = ""
    """what stands between the columns of .csv, .tsv and .txt; empty: a comma in CSV, a tab in the others"""
    hub: str = ""
    """name of a data set on the Hugging Face hub, or a folder: saved by `save_to_disk`, or one that `datasets` loads"""
    hub_config: str = ""
    """configuration name of the hub data set"""
    split: str = "train"
    """split of the hub data set, or of the grammar (train, valid, test)"""
    columns: list[str] = field(default_factory=list)
    """names of the source and target column (a dot reaches into a nested field: translation.de), or, of TMX, of the
    languages; two numbers from 0 where no header names columns; empty: the language codes, or the first two TSV
    columns"""
    grammar: GrammarConfig | None = None
    """draw pairs from the shipped grammar"""
    weight: Annotated[float, Allowed(lambda value: 0 < value <= 100, "above 0 and at most 100")] = 1.0
    """how often each pair of this corpus is seen in an epoch: 2 means twice, 0.5 every second epoch"""

    def _check(self) -> None:
        given = [name for name in ("source", "target", "files", "hub", "grammar") if getattr(self, name)]
        one_form = given in (["source", "target"], ["source"], ["target"], ["files"], ["hub"], ["grammar"])
        forms = "given by exactly one of: source and target, files, hub, grammar"
        self._require(one_form, "a corpus", forms, " and ".join(given))
        sides = [self.source, self.target]
        self._require(len(self.source) == len(self.target), "source and target", "lists of equally many files", sides)
        self._require(len(self.columns) in (0, 2), "columns", "two names: source and target")
        one = len(self.delimiter) < 2 and self.delimiter not in ('"', "\n", "\r") and (self.files or not self.delimiter)
        self._require(bool(one), "delimiter", "one character, and only beside files")


@dataclass(frozen=True, kw_only=True)
class CleaningConfig(Section):
    """Which training pairs are dropped. Every dropped pair is counted under its rule in `cleaning.json`."""

    empty: bool = True
    """drop pairs with an empty or white-space side"""
    max_words: Whole = 250
    """drop pairs with more white-space separated words on a side; 0: keep all"""
    max_characters: Whole = 3000
    """drop pairs with more characters on a side; 0: keep all"""
    max_ratio: NotNegative = 0.0
    """drop pairs whose word counts differ by more than this factor; 0: keep all"""
    identical: bool = False
    """drop pairs whose sides are equal"""
    duplicate: bool = False
    """drop pairs that were seen before"""
    overlap: bool = True
    """drop training pairs that also stand in the validation or test data"""
    languages: bool = True
    """refuse a corpus whose source and target read like each other's language"""
    examples: Whole = 5
    """how many dropped pairs to show in the report for each rule"""

    def _check(self) -> None:
        self._require(self.max_ratio == 0 or self.max_ratio >= 1, "max_ratio", "0 or at least 1")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
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

    def _check(self) -> None:
        for name in ("train", "valid"):
            self._require(bool(getattr(self, name)), name, "a list of at least one corpus")
        languages = [self.source_language, self.target_language]
        for corpus in (*self.train, *self.valid, *self.test):
            if corpus.grammar is not None:
                named = corpus.grammar.languages
                self._require(
                    named in ([], languages),
                    "a grammar's languages",
                    f"data.source_language and data.target_language, {languages}, or left out",
                    named,
                )


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig(Section):
    """The SentencePiece model, trained on the cleaned training text of the run."""

    algorithm: Literal["bpe", "unigram"] = "unigram"
    """how pieces are learnt"""
    joint: bool = True
    """one model for both languages, or one each"""
    vocabulary_size: Annotated[int, within(32, 10**7)] = 8000
    """pieces (of each model); fewer where the text is too small to hold so many"""
    byte_fallback: bool = False
    """spell unknown characters in bytes"""
    character_coverage: Annotated[float, within(0.98, 1)] = 1.0
    """share of the characters that get a piece of their own"""
    normalization: Literal["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity"] = "nmt_nfkc"
    """SentencePiece's normalisation rule; those with _cf fold case"""
    invisible: Literal["remove", "keep"] = "remove"
    """what to do with characters that a reader cannot see (soft hyphens, zero-width spaces, direction marks ...), in
    training and in every later input"""
    training_sentences: Annotated[int, within(200, 10**9)] = 2_000_000
    """at most so many sentences are sampled for learning the pieces"""
    sampling: Share = 0.0
    """subword sampling, a new segmentation each epoch: BPE dropout probability, or unigram smoothing alpha
    (Kudo 2018); 0: off"""
    sampling_side: Literal["source", "both"] = "both"
    """which side is sampled"""


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The Transformer encoder-decoder (Vaswani et al. 2017), one width throughout."""

    width: Annotated[int, within(1, 65_536)] = 256
    """size of embeddings and hidden states"""
    encoder_layers: Annotated[int, within(1, 1_000)] = 3
    decoder_layers: Annotated[int, within(1, 1_000)] = 3
    encoder_heads: Count = 4
    decoder_heads: Count = 4
    encoder_feed_forward: Annotated[int, within(1, 10**6)] = 1024
    """inner size of the encoder's feed-forward layers"""
    decoder_feed_forward: Annotated[int, within(1, 10**6)] = 1024
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
    dropout: Dropout = 0.1
    """dropout on sublayer outputs, before the residual sum"""
    embedding_dropout: Dropout = 0.1
    """dropout on embeddings plus positions"""
    attention_dropout: Dropout = 0.0
    """dropout on attention weights"""
    activation_dropout: Dropout = 0.0
    """dropout inside the feed-forward layers"""

    def _check(self) -> None:
        for name in ("encoder_heads", "decoder_heads"):
            heads = getattr(self, name)
            self._require(self.width % heads == 0, name, f"a divisor of model.width, {self.width}")
            even = self.positions != "rotary" or self.width // heads % 2 == 0
            self._require(even, name, "such that each head has an even size (rotary positions)")
        self._require(self.positions == "rotary" or self.width % 2 == 0, "width", "even (sinusoidal positions)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The training loop."""

    max_epochs: Whole = 0
    """stop after so many passes over the data; 0: no limit"""
    max_steps: Whole = 0
    """stop after so many updates; 0: no limit"""
    budget_minutes: Annotated[float, within(0, 10**7)] = 0.0
    """stop after so many minutes, preparation and validation included: the time left is turned into a number of
    updates, again and again at the speed of the last ones, and the schedule follows; 0: no limit"""
    batch_tokens: Annotated[int, within(1, 10**9)] = 4096
    """most positions of a batch on either side, padding included"""
    max_length: Annotated[int, within(1, 4096)] = 256
    """pairs with more tokens on a side (end of sentence included) are not trained on, and counted"""
    accumulate: Annotated[int, within(1, 10**6)] = 1
    """batches summed into one update; processes share them, so there are at most so many"""
    activation_checkpointing: bool = False
    """keep what enters each layer and compute the rest again for the gradient: a third slower, far less memory"""
    optimiser: Literal["adamw"] = "adamw"
    """the one there is; config files of earlier versions name it"""
    learning_rate: Annotated[float, Allowed(lambda value: 0 < value <= 10, "above 0 and at most 10")] = 1e-3
    """peak learning rate"""
    schedule: Literal["inverse_sqrt", "cosine", "warmup_stable_decay", "constant"] = "inverse_sqrt"
    """after the warm-up: proportional to 1 / sqrt(step), a half cosine down to the end of training, flat with a
    straight line down over the last decay_share of training, or flat"""
    warmup_steps: Whole = 1000
    """updates of linear warm-up from 0"""
    final_learning_rate: NotNegative = 0.0
    """cosine, warmup_stable_decay: learning rate at the last update"""
    decay_share: AboveZero = 0.2
    """warmup_stable_decay: share of all updates over which the learning rate falls"""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    """AdamW's decay rates"""
    epsilon: Annotated[float, within(1e-30, 1)] = 1e-9
    """AdamW's epsilon"""
    weight_decay: Annotated[float, within(0, 100)] = 0.0
    """decoupled weight decay, on matrices only"""
    clip_norm: NotNegative = 1.0
    """largest gradient norm; 0: no clipping"""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """of matrix products: bfloat16, float32, or whichever is the faster on this GPU or processor"""
    ema_decay: BelowOne = 0.0
    """exponential moving average of the weights, used for validation and saved as the model; 0: off"""
    validate_every: Whole = 0
    """updates between validations; 0: after each epoch"""
    checkpoint_every: Whole = 0
    """updates between checkpoints; 0: at each validation"""
    keep_checkpoints: Count = 5
    """newest checkpoints kept, the best one aside"""
    best_by: Literal["nll", "perplexity", "accuracy", "ece", "bleu", "chrf"] = "bleu"
    """validation figure that picks the best checkpoint, the lower nll among equal ones"""
    patience: Whole = 0
    """stop after so many validations without a better checkpoint; 0: never"""
    average: Literal["none", "last", "best"] = "none"
    """at the end average the weights of the last or the best checkpoints; kept as best if it validates better"""
    average_count: Count = 5
    """how many checkpoints are averaged"""
    init_from: str = ""
    """model or run directory to start from: its weights and its tokeniser (fine-tuning)"""
    teacher: str = ""
    """model or run directory whose distributions are learnt beside the labels, with its tokeniser (distillation)"""
    teacher_temperature: Annotated[float, Allowed(lambda value: 0 < value <= 100, "above 0 and at most 100")] = 1.0
    """what the scores of both are divided by before they are compared; above 1 unlikely pieces count more"""
    teacher_weight: Share = 0.5
    """share of the loss that is the divergence from the teacher; the rest is what the loss section says"""
    report_to: Literal["none", "wandb", "mlflow"] = "none"
    """show the figures of log.jsonl in Weights & Biases or MLflow, too"""
    log_every: Count = 50
    """updates between lines of log.jsonl"""

    def _check(self) -> None:
        ends = self.max_epochs > 0 or self.max_steps > 0 or self.budget_minutes > 0
        limits = "above 0, or train.max_steps or train.budget_minutes: training needs an end"
        self._require(ends, "max_epochs", limits)
        fits = self.max_length <= self.batch_tokens
        self._require(fits, "max_length", f"at most train.batch_tokens, {self.batch_tokens}")
        rates = len(self.betas) == 2 and all(0 <= beta <= 0.99999 for beta in self.betas)
        self._require(rates, "betas", "two numbers, 0 to 0.99999")
        for name, default in (("teacher_temperature", 1.0), ("teacher_weight", 0.5)):
            self._require(bool(self.teacher) or getattr(self, name) == default, name, "left out without train.teacher")
        falls = self.final_learning_rate <= self.learning_rate
        self._require(falls, "final_learning_rate", f"at most train.learning_rate, {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """One run: raw text to trained model."""

    run_dir: str
    """folder of the run: log, checkpoints, curves"""
    data: DataConfig
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    seed: Seed = 1
    """seed of initialisation, dropout, order and sampling"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train; auto: a GPU where there is one"""
    threads: Threads = 0
    """processor threads; 0: as many as there are cores"""

    def _check(self) -> None:
        self._require(bool(self.run_dir), "run_dir", "the folder of the run")
        shared = self.tokenizer.joint or self.model.tie != "all" or bool(self.train.init_from or self.train.teacher)
        allowed = "none or target when tokenizer.joint is false"
        self._require(shared, "model.tie", allowed, self.model.tie)
