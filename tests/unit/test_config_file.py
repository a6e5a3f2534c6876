"""Config files and options: what is merged, what is wrong and how that is told."""

from __future__ import annotations

import re
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mt.config import Config, CorpusConfig, DataConfig, LossConfig, TrainConfig
from mt.config_file import dump_config, parse_config, read_config
from mt.errors import UserError

TEXT = """\
run_dir: runs/x
data:
  source_language: de
  target_language: en
  train:
    - {source: [a.de], target: [a.en]}
  valid:
    - grammar: {pairs: 10}
train:
  max_steps: 10
  learning_rate: 1e-3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(TEXT)
    return path


def error_of(arguments: list[object]) -> str:
    with pytest.raises(UserError) as raised:
        parse_config([str(argument) for argument in arguments], "train.py")
    message = str(raised.value)
    assert "\n" not in message
    return message


def changed(file: Path, old: str, new: str) -> Path:
    assert TEXT.count(old) == 1
    file.write_text(TEXT.replace(old, new))
    return file


def test_the_file_lies_over_the_defaults_and_options_over_both(file: Path) -> None:
    config = parse_config([str(file), "--train.max_steps", "20", "--data.root=../corpora"], "train.py")
    assert config.train == TrainConfig(max_steps=20, learning_rate=1e-3)
    assert config.data.root == "../corpora"
    assert config.data.train == [CorpusConfig(source=["a.de"], target=["a.en"])]


def test_the_file_may_stand_anywhere_or_be_an_option(file: Path) -> None:
    expected = parse_config([str(file), "--seed", "3"], "train.py")
    assert parse_config(["--seed", "3", str(file)], "train.py") == expected
    assert parse_config(["--config", str(file), "--seed", "3"], "train.py") == expected
    assert parse_config([f"--config={file}", "--seed", "3"], "train.py") == expected


def test_options_of_every_type(file: Path) -> None:
    arguments = [
        "--train.betas",
        "[0.5, 0.25]",
        "--train.learning_rate",
        "2e-4",
        "--tokenizer.byte_fallback",
        "true",
        "--loss.name",
        "encouraging",
        "--loss.log_end",
        "0.75",
        "--data.cache",
        "1e-3",
        "--train.weight_decay",
        "1",
    ]
    config = parse_config([str(file), *arguments], "train.py")
    assert config.train.betas == [0.5, 0.25]
    assert config.train.learning_rate == 2e-4
    assert config.tokenizer.byte_fallback is True
    assert config.loss == LossConfig(name="encouraging", log_end=0.75)
    assert config.data.cache == "1e-3"  # a text setting stays text
    assert isinstance(config.train.weight_decay, float)
    assert parse_config([str(file), "--loss.log_end", "null"], "train.py").loss.log_end is None


def test_an_option_may_give_what_the_file_lacks(file: Path) -> None:
    changed(file, "run_dir: runs/x\n", "")
    assert "missing in" in error_of([file])
    assert parse_config([str(file), "--run_dir", "there"], "train.py").run_dir == "there"


def test_options_reach_whole_sections_and_lists(file: Path) -> None:
    config = parse_config(
        [str(file), "--train", "{max_steps: 5}", "--data.train+", "[{files: [b.tsv], weight: 2}]"], "train.py"
    )
    assert config.train.max_steps == 5
    later = parse_config([str(file), "--train", "{max_steps: 5}", "--train.max_steps", "7"], "train.py")
    assert later.train.max_steps == 7
    assert config.data.train == [
        CorpusConfig(source=["a.de"], target=["a.en"]),
        CorpusConfig(files=["b.tsv"], weight=2.0),
    ]


def test_one_text_or_one_section_stands_for_a_list_of_one(file: Path) -> None:
    changed(file, "- {source: [a.de], target: [a.en]}", "  {source: a.de, target: a.en}")
    more = ["--data.valid", "{files: v.csv, delimiter: ;}", "--data.train+", "{files: b.tmx, columns: [de-AT, en]}"]
    config = parse_config([str(file), *more], "train.py")
    assert config.data.train == [
        CorpusConfig(source=["a.de"], target=["a.en"]),
        CorpusConfig(files=["b.tmx"], columns=["de-AT", "en"]),
    ]
    assert config.data.valid == [CorpusConfig(files=["v.csv"], delimiter=";")]
    assert parse_config([str(file), "--data.test+", "{files: t.tsv}"], "train.py").data.test[0].files == ["t.tsv"]
    assert "must be two names" in error_of([file, "--data.train", "[{files: a.tsv, columns: de}]"])


@pytest.mark.parametrize("delimiter", ["'||'", "'\"'", '"\\n"'])
def test_a_delimiter_is_one_character_beside_files(file: Path, delimiter: str) -> None:
    told = error_of([file, "--data.valid", f"{{files: v.csv, delimiter: {delimiter}}}"])
    assert "data.valid[0].delimiter in --data.valid is" in told and "one character, and only beside files" in told
    assert "only beside files" in error_of([file, "--data.valid", "{hub: a/b, delimiter: ;}"])


def test_anchors_and_merges_of_yaml_work(file: Path) -> None:
    changed(
        file,
        "- {source: [a.de], target: [a.en]}",
        "- &first {source: [a.de], target: [a.en]}\n    - {<<: *first, weight: 2}",
    )
    first, second = parse_config([str(file)], "train.py").data.train
    assert (first.source, first.weight, second.source, second.weight) == (["a.de"], 1.0, ["a.de"], 2.0)


def test_unknown_keys_are_told_with_the_nearest_valid_one(file: Path) -> None:
    changed(file, "learning_rate", "learing_rate")
    assert error_of([file]) == f"unknown key train.learing_rate in {file}; did you mean train.learning_rate?"
    changed(file, "source: [a.de]", "sorce: [a.de]")
    assert error_of([file]) == f"unknown key data.train[0].sorce in {file}; did you mean data.train[0].source?"
    changed(file, "grammar: {pairs: 10}", "grammar: {pairs: 10, sed: 1}")
    assert "data.valid[0].grammar.sed" in error_of([file])
    changed(file, "run_dir", "dropout: 0.1\nrun_dir")
    assert error_of([file]) == f"unknown key dropout in {file}; did you mean model.dropout?"


def test_unknown_options_are_told_with_the_nearest_valid_one(file: Path) -> None:
    assert error_of([file, "--train.max_step", 3]).endswith("did you mean --train.max_steps?")
    assert error_of([file, "--train.dropout", 3]).endswith("did you mean --model.dropout?")
    assert "did you mean" in error_of([file, "-train.max_steps", 3])
    assert error_of([file, "--qqq", 3]) == "train.py: unknown option --qqq; --print_config shows all keys"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_steps: 10", "max_steps: ten", "train.max_steps in {file} is 'ten'; it must be a whole number"),
        ("max_steps: 10", "max_steps: true", "train.max_steps in {file} is True; it must be a whole number"),
        ("1e-3", "fast", "train.learning_rate in {file} is 'fast'; it must be a number"),
        ("1e-3", "[1]", "train.learning_rate in {file} is [1]; it must be a number"),
        ("[a.de]", "5", "data.train[0].source in {file} is 5; it must be a list"),
        ("[a.de]", "[7]", "data.train[0].source[0] in {file} is 7; it must be text (put it in quotes)"),
        ("runs/x", "", "run_dir in {file} is empty; it must be text (put it in quotes)"),
        ("max_steps: 10", "max_steps: 10\n  patience: -3", "train.patience in {file} is -3; it must be 0 or more"),
        ("pairs: 10", "pairs: 0", "data.valid[0].grammar.pairs in {file} is 0; it must be 1 to"),
        ("target: [a.en]", "target: []", "data.train[0] in {file}: source and target"),
        ("max_steps: 10", "best_by: blue", "one of nll, perplexity, accuracy"),
        ("max_steps: 10", "best_by: blue", "(did you mean bleu?)"),
        ("  source_language: de\n", "", "missing in {file}: data.source_language; there is no default, add"),
        ("pairs: 10", "seed: 1", "missing in {file}: data.valid[0].grammar.pairs; there"),
        ("train:\n  max_steps: 10\n  learning_rate: 1e-3\n", "", "train.max_epochs"),
        ("[a.de]", "[a.de", "{file}, line 6: not valid YAML"),
        ("run_dir", "seed: 1\nseed: 2\nrun_dir", "{file}, line 2: the key 'seed' stands twice"),
        ("run_dir", "\trun_dir", "{file}, line 1: not valid YAML"),
        ("run_dir", "run_dir\x00", "{file}: not valid YAML"),
        ("runs/x", '"runs/\\0x"', "run_dir in {file} is 'runs/\\x00x'; it must be text"),
        ("runs/x", '"runs/\\ud800"', "run_dir in {file} is 'runs/\\ud800'; it must be text"),
        (
            "max_steps: 10",
            f"max_steps: {2**64}",
            "train.max_steps in {file} is 18446744073709551616; it must be a whole",
        ),
        ("1e-3", f"1{'0' * 30}", "train.learning_rate in {file} is 1e+30; it must be above 0 and at most 10"),
        ("1e-3", ".nan", "train.learning_rate in {file} is nan; it must be above 0"),
        ("1e-3", '"1e-3"', "train.learning_rate in {file} is '1e-3'; it must be a number"),
        ("max_steps: 10", "best_by: 5", "train.best_by in {file} is 5; it must be one of nll"),
        ("max_steps: 10", "best_by: {a: []}", "train.best_by in {file} is {{'a': []}}; it must be one of nll"),
        (TEXT, "just text", "it must be a section of"),
        (TEXT, "", "missing in {file}: run_dir, data.source_language, data.target_language, data.train, data.valid;"),
        (TEXT, "run_dir: a\ndata: [1]", "data in {file} is [1]; it must be a section of"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(file: Path, old: str, new: str, words: str) -> None:
    changed(file, old, new)
    assert words.format(file=file) in error_of([file])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train.max_steps", "ten"], "--train.max_steps is 'ten'; it must be a whole number"),
        (["--train.patience", "-3"], "--train.patience is -3; it must be 0 or more"),
        (["--train.max_steps"], "train.py: option --train.max_steps needs a value"),
        (["--train.betas", "0.9"], "--train.betas is 0.9; it must be a list"),
        (
            ["--train.betas", "[0.9"],
            "--train.betas, line 1: not valid YAML: expected ',' or ']', but got '<stream end>'",
        ),
        (
            ["--train.max_steps", "010"],
            "--train.max_steps, line 1: '010' is read in two ways, as octal and as decimal: {remedy}",
        ),
        (
            ["--train.max_steps", "18446744073709551616"],
            "--train.max_steps is 18446744073709551616; it must be a whole number, of usual size and characters",
        ),
        (["--tokenizer.joint", "maybe"], "--tokenizer.joint is 'maybe'; it must be true or false"),
        (["--data.cleaning.max_ratio", "0.5"], "--data.cleaning.max_ratio is 0.5; it must be 0 or at least 1"),
        (
            ["--data.train", "[{sorce: [a]}]"],
            "unknown key data.train[0].sorce in --data.train; did you mean data.train[0].source?",
        ),
        (
            ["--data.train+", "[{files: [a], weight: 0}]"],
            "data.train[1].weight in --data.train+ is 0.0; it must be above 0 and at most 100",
        ),
        (["other.yaml"], "train.py: two config files, {file} and other.yaml; name one"),
    ],
)
def test_a_wrong_option_is_told_in_one_line(file: Path, arguments: list[str], message: str) -> None:
    remedy = "put text in quotes, write numbers in decimal digits alone, switches as true or false"
    assert error_of([file, *arguments]) == message.format(file=file, remedy=remedy)


@pytest.mark.parametrize("value", ["{max_stes: 5}", "/nowhere/at/all.yaml", "7"])
def test_a_wrong_section_option_is_one_line(file: Path, value: str) -> None:
    error_of([file, "--train", value])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert error_of([tmp_path / "none.yaml"]) == (
        f"no config file {tmp_path / 'none.yaml'}; check the name, or take one of the shipped: mt configs lists them"
    )
    assert "Is a directory" in error_of([tmp_path])
    (tmp_path / "latin.yaml").write_bytes(b"run_dir: caf\xe9\n")
    assert "not UTF-8" in error_of([tmp_path / "latin.yaml"])
    assert "no config file" in error_of([])


def test_print_config_prints_what_reads_back_equal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_config([str(file), "--seed", "7"], "train.py")
    with pytest.raises(SystemExit) as raised:
        parse_config([str(file), "--seed", "7", "--print_config"], "train.py")
    assert raised.value.code == 0
    file.write_text(capsys.readouterr().out)
    assert read_config(file) == config
    assert parse_config([str(file)], "train.py") == config


def test_help_tells_every_setting_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        parse_config(["--help"], "train.py")
    assert raised.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "peak learning rate" in text
    assert "python train.py multi30k-de-en " in text
    assert "--decode.max_length_extra" in text


@given(
    run_dir=st.text(min_size=1).filter(lambda text: text.isprintable()),
    name=st.sampled_from(["no", "1e-3", "null", "~", "2014", "a: b", "Straße", " x ", "- y", "0x1F", "1_000"]),
    rate=st.floats(min_value=0, max_value=10, exclude_min=True),
    log_end=st.none() | st.floats(min_value=0, max_value=1),
)
def test_dump_and_read_give_the_same_config(
    tmp_path_factory: pytest.TempPathFactory, run_dir: str, name: str, rate: float, log_end: float | None
) -> None:
    config = Config(
        run_dir=run_dir,
        data=DataConfig(
            source_language=name,
            target_language="en",
            train=[CorpusConfig(hub=name, hub_config=name, columns=[name, "b"])],
            valid=[CorpusConfig(source=[run_dir], target=["b"])],
        ),
        loss=LossConfig(name="encouraging", log_end=log_end),
        train=TrainConfig(max_steps=3, learning_rate=rate),
    )
    path = tmp_path_factory.mktemp("configs") / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert read_config(path) == config


def made(file: Path, *options: str) -> Path:
    """A run directory that holds the config alone, as of a model."""
    config = parse_config([str(file), *options], "train.py")
    folder = file.parent / "made"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config))
    return folder


SHAPE = ("--model", "{width: 6, encoder_heads: 3, decoder_heads: 3, dropout: 0.5}")
PIECES = ("--tokenizer", "{joint: false, vocabulary_size: 64, algorithm: bpe, sampling: 0.5}", "--model.tie", "none")


def test_a_run_that_starts_from_a_model_takes_over_its_shape_and_its_tokeniser(file: Path) -> None:
    folder = made(file, *SHAPE, *PIECES, "--train.max_steps", "7")
    config = parse_config([str(file), "--train.init_from", str(folder), "--model.width", "6"], "train.py")
    assert (config.model.width, config.model.encoder_heads, config.model.tie) == (6, 3, "none")
    assert (config.tokenizer.vocabulary_size, config.tokenizer.joint, config.tokenizer.algorithm) == (64, False, "bpe")
    assert (config.model.dropout, config.tokenizer.sampling) == (0.1, 0.0)  # of the training, not of the model
    assert config.train.max_steps == 10


def test_a_student_takes_over_the_tokeniser_of_its_teacher_and_keeps_its_own_shape(file: Path) -> None:
    teacher = ["--train.teacher", str(made(file, *SHAPE, "--tokenizer", "{vocabulary_size: 64, algorithm: bpe}"))]
    config = parse_config([str(file), *teacher, "--model.width", "8"], "train.py")
    assert (config.tokenizer.vocabulary_size, config.tokenizer.algorithm) == (64, "bpe")
    assert (config.model.width, config.model.encoder_heads) == (8, 4)
    told = error_of([file, *teacher, "--tokenizer.vocabulary_size", 65])
    assert told.endswith("says 64; leave it out with train.teacher")


def test_what_is_given_and_is_not_as_the_model_has_it_is_refused(file: Path) -> None:
    folder = made(file, *SHAPE, *PIECES)
    start = ["--train.init_from", folder]
    assert error_of([file, *start, "--tokenizer.vocabulary_size", 65]) == (
        f"--tokenizer.vocabulary_size is 65, but {folder}/config.yaml says 64; leave it out with train.init_from"
    )
    assert error_of([file, *start, "--tokenizer", "{normalization: nfkc}"]).startswith(
        "tokenizer.normalization in --tokenizer is 'nfkc', but"
    )
    changed(file, "train:\n  max", "model: {width: 8}\ntrain:\n  max")
    assert error_of([file, *start]).startswith(f"model.width in {file} is 8, but")
    assert "no config file" in error_of([file, "--train.init_from", "nowhere"])


def test_a_run_that_has_begun_goes_on_where_the_model_is_gone(file: Path) -> None:
    folder = made(file, *SHAPE)
    arguments = [str(file), "--run_dir", str(file.parent / "run"), "--train.init_from", str(folder)]
    config = parse_config(arguments, "train.py")
    folder.rename(file.parent / "run")
    assert "no config file" in error_of(arguments)  # no checkpoint yet
    (file.parent / "run" / "last").write_text("step_00000001\n")
    assert parse_config(arguments, "train.py") == config


def test_the_tokeniser_of_a_model_of_earlier_versions_keeps_invisible_characters(file: Path) -> None:
    folder = made(file)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("  invisible: remove\n", ""))
    assert parse_config([str(file), "--train.init_from", str(folder)], "train.py").tokenizer.invisible == "keep"


@pytest.mark.parametrize("section", ["5", "[1]", "text", ""])
def test_a_section_of_another_form_is_told_beside_a_start_too(file: Path, section: str) -> None:
    start = ["--train.init_from", made(file)]
    for name in ("model", "tokenizer"):
        if section:
            assert f"--{name} is" in error_of([file, *start, f"--{name}", section])
        else:
            parse_config([str(each) for each in (file, *start, f"--{name}", section)], "train.py")


def test_the_configs_of_the_page_on_own_text_are_valid(tmp_path: Path, file: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "own-text.md").read_text(encoding="utf-8")
    first, tuned = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    path = tmp_path / "first.yaml"
    path.write_text(f"run_dir: x\n{first}train: {{max_steps: 1}}\n")
    assert read_config(path).data.train[2].columns == ["Deutsch", "Englisch"]
    path.write_text(tuned.replace("runs/multi30k-de-en", str(made(file, *SHAPE))))
    assert parse_config([str(path)], "train.py").model.width == 6
