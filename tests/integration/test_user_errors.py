"""What a person can mend ends in one line that names it, exit code 2, and no traceback."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1


def assert_user_error(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on standard error with all the words, exit code 2, nothing on standard output."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word.lower() in lines[0].lower()


@pytest.mark.parametrize("script", ["train.py", "tools/prepare.py"])
class TestConfig:
    def test_an_unknown_key_has_a_nearest_one(self, script: str, tiny_config: Path, run_command: Any) -> None:
        tiny_config.write_text(tiny_config.read_text().replace("warmup_steps", "warm_up_steps"))
        wanted = f"unknown key train.warm_up_steps in {tiny_config}; did you mean train.warmup_steps?"
        assert_user_error(run_command(script, tiny_config), wanted)

    def test_a_wrong_type(self, script: str, tiny_config: Path, run_command: Any) -> None:
        done = run_command(script, tiny_config, "--train.max_steps", "many")
        assert_user_error(done, "--train.max_steps is 'many'; it must be a whole number")

    def test_a_value_out_of_range(self, script: str, tiny_config: Path, run_command: Any) -> None:
        done = run_command(script, tiny_config, "--model.width", "15")
        assert_user_error(done, "model.width, 15")

    def test_a_missing_config_file(self, script: str, run_command: Any) -> None:
        assert_user_error(run_command(script, "none.yaml"), "no config file none.yaml")

    def test_files_of_unequal_length(self, script: str, tiny_config: Path, run_command: Any) -> None:
        with (tiny_config.parent / "train.en").open("a") as file:
            file.write("one line more\n")
        assert_user_error(run_command(script, tiny_config), "train.de", "100", "train.en", "101")

    def test_a_missing_data_file(self, script: str, tiny_config: Path, run_command: Any) -> None:
        (tiny_config.parent / "train.en").unlink()
        assert_user_error(run_command(script, tiny_config), "train.en")

    def test_a_folder_that_cannot_be_made(self, script: str, tiny_config: Path, run_command: Any) -> None:
        # Below a file nobody can make a folder, not even root.
        place = tiny_config.parent / "train.de" / "run"
        assert_user_error(run_command(script, tiny_config, "--run_dir", place), "train.de")


def drop_override() -> None:
    """Takes from root the right to write where the permissions forbid it."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


@pytest.fixture
def read_only(tmp_path: Path) -> Path:
    """A folder that a child process with `drop_override` cannot write into."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    folder.chmod(0o555)
    probe = [sys.executable, "-c", f"open({str(folder / 'probe')!r}, 'w')"]
    if subprocess.run(probe, preexec_fn=drop_override, capture_output=True, check=False).returncode == 0:
        pytest.skip("this user may write into read-only folders")
    return folder


def test_training_into_a_read_only_folder(tiny_config: Path, read_only: Path, run_command: Any) -> None:
    done = run_command("train.py", tiny_config, "--run_dir", read_only / "run", preexec_fn=drop_override)
    assert_user_error(done, str(read_only), "permission denied")


@pytest.mark.parametrize("script", ["translate.py", "tools/evaluate.py"])
def test_output_into_a_read_only_folder(
    script: str, tiny_model: Path, tmp_path: Path, read_only: Path, run_command: Any
) -> None:
    text = tmp_path / "train.de"
    options = {
        "translate.py": ["--input", text, "--output", read_only / "out.en"],
        "tools/evaluate.py": ["--source", text, "--reference", text, "--output", read_only / "evaluation"],
    }
    done = run_command(script, tiny_model, *options[script], preexec_fn=drop_override)
    assert_user_error(done, str(read_only), "permission denied")


COMMANDS = {
    "translate.py": [],
    "tools/score.py": ["--source", "train.de", "--target", "train.en"],
    "tools/evaluate.py": ["--source", "train.de", "--reference", "train.en", "--output", "evaluation"],
}


@pytest.mark.parametrize(
    ("script", "name"),
    [
        *(("translate.py", name) for name in ("model.safetensors", "meta.json", "tokenizer.model", "config.yaml")),
        ("tools/score.py", "model.safetensors"),
        ("tools/evaluate.py", "model.safetensors"),
    ],
)
def test_a_file_of_a_model_cut_in_half(script: str, name: str, tiny_model: Path, run_command: Any) -> None:
    path = tiny_model / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert_user_error(run_command(script, tiny_model, *COMMANDS[script], stdin="ein Hund\n"), str(tiny_model))


@pytest.mark.parametrize("script", COMMANDS)
class TestModel:
    def test_a_model_that_is_not_there(self, script: str, tiny_model: Path, run_command: Any) -> None:
        shutil.rmtree(tiny_model)
        assert_user_error(run_command(script, tiny_model, *COMMANDS[script]), str(tiny_model))

    def test_an_unknown_option_is_told_with_the_nearest_one(self, script: str, run_command: Any) -> None:
        done = run_command(script, "model", *COMMANDS[script], "--devise", "cpu")
        assert_user_error(done, "unknown option --devise; did you mean --device?")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("translate.py", ["--input", "none.de"]),
        ("tools/score.py", ["--source", "none.de", "--target", "train.en"]),
        ("tools/evaluate.py", ["--source", "none.de", "--reference", "train.en", "--output", "evaluation"]),
    ],
)
def test_a_missing_input_file(script: str, arguments: list[str], tiny_model: Path, run_command: Any) -> None:
    assert_user_error(run_command(script, tiny_model, *arguments), "none.de")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("tools/score.py", ["--source", "train.de", "--target", "short.en"]),
        ("tools/evaluate.py", ["--source", "train.de", "--reference", "short.en", "--output", "evaluation"]),
    ],
)
def test_files_of_unequal_length_beside_a_model(
    script: str, arguments: list[str], tiny_model: Path, tmp_path: Path, run_command: Any
) -> None:
    (tmp_path / "short.en").write_text("a dog\n")
    assert_user_error(run_command(script, tiny_model, *arguments), "train.de", "100", "short.en", "1")


@pytest.mark.parametrize(
    "script",
    [
        "train.py",
        "translate.py",
        *(f"tools/{path.name}" for path in (Path(__file__).resolve().parents[2] / "tools").glob("*.py")),
    ],
)
def test_help_has_an_example_and_needs_no_torch(script: str, run_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # one line on standard error for each import
    done = run_command(script, "--help")
    assert done.returncode == 0
    assert "example" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "mt.errors" in imported
    assert not imported & {"torch", "datasets", "matplotlib", "sacrebleu"}
