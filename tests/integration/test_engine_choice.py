"""translate.py --engine auto: which engine it takes, what it says of it, and that CTranslate2 answers without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mt.cli.translate import main as translate
from mt.errors import UserError
from mt.interop import ctranslate2_engine, ctranslate2_export

ctranslate2 = pytest.importorskip("ctranslate2")

ROOT = Path(__file__).parents[2]
CHOSEN = f"engine: ctranslate2 {ctranslate2.__version__}, float32\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text("ein Hund läuft\n\neine Katze\n" * 4, encoding="utf-8")
    return path


def engine_line(model: Path, source: Path, capfd: pytest.CaptureFixture[str], *options: str) -> tuple[str, str]:
    """What a call of translate.py writes on standard error and output."""
    capfd.readouterr()
    assert translate([str(model), "--input", str(source), "--threads", "1", "--beam", "2", *options]) == 0
    told = capfd.readouterr()
    return told.err, told.out


@pytest.mark.parametrize("engine", ["auto", "ctranslate2"])
def test_a_checked_export_translates_without_importing_torch(tiny_model: Path, source: Path, engine: str) -> None:
    translate([str(tiny_model), "--input", str(source), "--output", str(source.with_name("first"))])
    code = "import sys; from mt.cli.translate import main; main(sys.argv[1:])\n"
    code += "print(*{'torch', 'safetensors.torch', 'scipy', 'sacrebleu'} & set(sys.modules))"
    command = [sys.executable, "-c", code, str(tiny_model), "--engine", engine]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, input="ein Hund läuft\n")
    first = source.with_name("first").read_text(encoding="utf-8").splitlines()[0]
    assert done.stdout.splitlines() == [first, ""], done.stderr
    assert done.stderr == CHOSEN * (engine == "auto")


def test_both_engines_write_the_same_and_one_line_says_which_it_was(
    tiny_model: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told, output = engine_line(tiny_model, source, capfd)
    assert told == CHOSEN and output.count("\n") == 12
    assert engine_line(tiny_model, source, capfd, "--engine", "torch") == ("", output)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--format", "jsonl"], "faster where scores are wanted"),
        (["--flag_below", "0.5"], "faster where scores are wanted"),
        (["--nbest", "2"], "faster where scores are wanted"),
        (["--stop", "exact"], "stop is exact: CTranslate2 cannot honour it"),
        (["--temperature", "0.5"], "temperature is 0.5: CTranslate2 cannot honour it"),
        (["--length_penalty", "gnmt"], "length_penalty is gnmt: CTranslate2 cannot honour it"),
        (["--ensemble", "MODEL"], "--ensemble: CTranslate2 cannot honour it"),
        (["--prefix", "SOURCE"], "--prefix: CTranslate2 cannot honour it"),
        (["--compute_type", "bfloat16"], "compute_type is bfloat16: CTranslate2 has float32 and int8 here"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_ctranslate2_cannot_honour_or_does_slower_goes_to_torch(
    tiny_model: Path, source: Path, capfd: pytest.CaptureFixture[str], options: list[str], reason: str
) -> None:
    given = [{"MODEL": str(tiny_model), "SOURCE": str(source)}.get(each, each) for each in options]
    assert engine_line(tiny_model, source, capfd, *given)[0] == f"engine: torch ({reason})\n"


def test_an_option_of_the_models_own_config_counts_as_asked_for(
    tiny_model: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    facts, config = tiny_model / "meta.json", tiny_model / "config.yaml"
    facts.write_text('{"format_version": 1}')
    config.write_text(config.read_text().replace("stop: first_beam", "stop: no_gain"))
    told = engine_line(tiny_model, source, capfd)[0]
    assert told == "engine: torch (stop is no_gain: CTranslate2 cannot honour it)\n"
    assert engine_line(tiny_model, source, capfd, "--stop", "first_beam", "--min_length", "3")[0] == CHOSEN


def test_a_missing_library_another_form_or_an_export_that_disagrees_goes_to_torch(
    tiny_model: Path, source: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine_line(tiny_model, source, capfd, "--engine", "torch")[1]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ctranslate2", None)
        told = engine_line(tiny_model, source, capfd)
        assert told == ("engine: torch (CTranslate2 is not installed)\n", expected)
    with monkeypatch.context() as patch:
        patch.setitem(ctranslate2_export.EXPRESSIBLE, "norm", ())  # type: ignore[index]
        told = engine_line(tiny_model, source, capfd)
        assert told == ("engine: torch (model.norm is pre: CTranslate2 cannot express it)\n", expected)
    monkeypatch.setitem(ctranslate2_engine._TOLERANCE, "float32", -1.0)
    error, output = engine_line(tiny_model, source, capfd)
    assert "engine: torch (" in error and "outputs do not agree with ours on a sample" in error and output == expected
    with pytest.raises(UserError, match="do not agree"):
        translate([str(tiny_model), "--input", str(source), "--engine", "ctranslate2"])
    for engine in ("auto", "ctranslate2"):  # eight bits are asked for: torch has none
        monkeypatch.setitem(sys.modules, "ctranslate2", None)
        with pytest.raises(UserError, match="not installed.*pip install ctranslate2"):
            translate([str(tiny_model), "--input", str(source), "--engine", engine, "--compute_type", "int8"])


def test_an_export_that_no_line_can_check_is_not_trusted(
    tiny_model: Path, source: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source.write_text("\n \n")
    told, output = engine_line(tiny_model, source, capfd)
    assert told.startswith("engine: torch (CTranslate2's export is not checked yet") and output == "\n\n"


def test_a_translation_does_not_go_on_with_another_engine(
    tiny_model: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mt.files.output import Output

    write = Output.write

    def interrupt(output: Output, number: int, data: bytes) -> None:
        if number == 5:
            raise KeyboardInterrupt
        write(output, number, data)

    command = [str(tiny_model), "--input", str(source), "--output", str(source.with_name("out"))]
    with monkeypatch.context() as patch:
        patch.setattr(Output, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            translate(command)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "ctranslate2", None)
        with pytest.raises(UserError, match=r"options \(engine ctranslate2, now torch\)"):
            translate(command)
    assert translate([*command, "--engine", "ctranslate2"]) == 0


def test_damaged_weights_are_told_though_the_export_is_whole(tiny_model: Path, source: Path) -> None:
    command = [str(tiny_model), "--input", str(source), "--output", str(source.with_name("out"))]
    translate(command)
    weights = tiny_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    for engine in ("auto", "ctranslate2"):
        with pytest.raises(UserError, match=r"model\.safetensors: was changed or damaged"):
            translate([*command, "--engine", engine])
