"""What README and docs tell people to type: CI runs each block of commands as written, or the block says why not."""

from __future__ import annotations

import functools
import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from mt.grammar.grammar import sample_pairs

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


class Block(NamedTuple):
    """What stands between two fences, the first of them in line `line`; `reason`: why it is not run, if it says so."""

    document: Path
    line: int
    reason: str
    language: str
    code: str

    @property
    def runs(self) -> bool:
        return self.language in ("sh", "bash", "python") and not self.reason and not self.of_make

    @property
    def of_make(self) -> bool:
        """Whether its commands are all of make, which .ci/run gives itself."""
        return all(line.startswith("make ") for line in self.code.splitlines())


def blocks_of(document: Path) -> list[Block]:
    """All fenced blocks. Not run is one with `<!-- not run: REASON -->` in the line before it."""
    text = document.read_text(encoding="utf-8")
    fence = r"(?:^<!-- not run: (?P<reason>.+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$"
    return [
        Block(document, text.count("\n", 0, found.start("language")) + 1, found["reason"] or "", *found.group(2, 3))
        for found in re.finditer(fence, text, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = {document: blocks_of(document) for document in DOCUMENTS}
COMMANDS = [
    line
    for block in chain.from_iterable(BLOCKS.values())
    if block.language in ("sh", "bash")
    for line in block.code.replace("\\\n", " ").splitlines()
]
SCRIPT_CALLS = sorted({line[line.index("python ") :] for line in COMMANDS if re.search(r"\bpython \S+\.py", line)})


def test_the_two_commands_come_first() -> None:
    assert BLOCKS[ROOT / "README.md"][0].code == "make demo\nmake test\n"


def test_every_make_command_has_its_target() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\bmake ([a-z-]+)`", document.read_text(encoding="utf-8")):
            assert target in TARGETS


def test_a_block_of_commands_is_fenced_as_one_and_make_is_run_by_continuous_integration() -> None:
    for block in chain.from_iterable(BLOCKS.values()):
        place = f"{block.document.name}:{block.line}"
        if block.language in ("", "text"):
            assert not re.search(
                r"^(\$ )?(python3?|pip|make|mt|mt-\w+|torchrun|docker|curl) ", block.code, re.MULTILINE
            ), f"{place}: commands; begin with ```sh"
        elif block.of_make and not block.reason:
            for line in block.code.splitlines():
                assert re.search(rf"^ *{line}\b", CI, re.MULTILINE), f"{place}: .ci/run has no {line}"
    for document in DOCUMENTS:
        assert not re.search(r"^ +```", document.read_text(encoding="utf-8"), re.MULTILINE), (
            f"{document}: indented fence"
        )


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("pair", ["de-en", "fr-en"])
def test_make_demo_trains_translates_and_evaluates_the_pair(pair: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", "demo", f"PAIR={pair}", "DEMO_DIR=here", "DEMO_OPTIONS=--train.max_steps 2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    commands = done.stdout.replace("\\\n", " ")
    assert f"mt demo {pair} --run_dir here --train.max_steps 2" in commands


def test_continuous_integration_runs_the_two_commands_and_these_blocks() -> None:
    assert re.search(r"^make test$", CI, re.MULTILINE)
    assert re.search(r"^ *make demo ", CI, re.MULTILINE)
    assert re.search(r"^[^#]*pytest .*-m slow .*tests/integration/test_readme.py", CI, re.MULTILINE)


@functools.cache
def shown_help(script: str) -> str:
    done = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, check=False)
    return done.stdout


@pytest.mark.parametrize("line", SCRIPT_CALLS)
def test_a_command_names_a_script_and_options_that_exist(line: str) -> None:
    python, script, *arguments = shlex.split(line, comments=True)
    assert python == "python" and (ROOT / script).is_file()
    for argument in arguments:
        if argument.startswith("--"):
            assert re.search(rf"^\s+(-\w, )?{re.escape(argument)}\b", shown_help(script), re.MULTILINE), argument
        if argument.startswith("configs/"):
            assert (ROOT / argument).is_file()


def test_the_links_of_all_pages_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


# What follows runs the blocks of a document, one after another, in a copy of the checkout where every config is of a
# tiny model and few updates, and what a reader is taken to have is there: texts, trained models, configs of their own.

PAIRS = {"train": 200, "valid": 60, "test": 60}
TINY_MODEL = dict.fromkeys(("encoder_layers", "decoder_layers"), 1) | dict.fromkeys(
    ("encoder_heads", "decoder_heads"), 2
)
TINY_MODEL |= dict.fromkeys(("encoder_feed_forward", "decoder_feed_forward"), 32) | {"width": 16}
TINY_TRAINING = {"max_steps": 10, "batch_tokens": 256, "accumulate": 1, "warmup_steps": 1, "validate_every": 100}
OWN_CONFIGS = {"student.yaml": ("train.de", "train.en"), "sequence-student.yaml": ("train.de", "train.teacher.en")}
TEXT_FILE = re.compile(r"[\w./*-]+\.(?:de|en|fr)(?:\.gz)?$")


@functools.cache
def grammar_text(split: str, language: str) -> str:
    """A line a sentence; German and English are translations of one another."""
    languages = ("fr", "en") if language == "fr" else ("de", "en")
    pairs = sample_pairs(languages, PAIRS[split], seed=1, split=split)
    return "".join(f"{target if language == 'en' else source}\n" for source, target in pairs)


def write_text(path: Path) -> None:
    """Text of the language that the name tells; that of test and valid is not that of training."""
    stem, language = path.name.removesuffix(".gz").rsplit(".", 1)
    text = grammar_text(next((split for split in PAIRS if stem.endswith(split)), "train"), language)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def shorten(path: Path) -> None:
    """Makes a config one of a tiny model and few updates, and writes the text that it names."""
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"] |= TINY_MODEL
    config["train"] = {key: each for key, each in config["train"].items() if key != "budget_minutes"} | TINY_TRAINING
    config["tokenizer"]["vocabulary_size"] = 150
    config["threads"] = 1
    config["decode"] = config.get("decode", {}) | {"max_length_ratio": 1.0, "max_length_extra": 2}
    for split in ("train", "valid", "test"):
        for corpus in config["data"].get(split, []):
            if "grammar" in corpus:
                corpus["grammar"]["pairs"] = PAIRS[split]
            for name in (*corpus.get("source", []), *corpus.get("target", [])):
                if ".teacher." not in name:  # which a document makes
                    write_text(path.parents[1] / config["data"]["root"] / name)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")


def shorten_study(path: Path) -> None:
    study = yaml.safe_load(path.read_text(encoding="utf-8"))
    for corpus in study["corpora"].values():
        corpus["settings"] |= {f"train.{key}": each for key, each in TINY_TRAINING.items()}
        corpus["tests"] = {name: {**each, "pairs": 8} for name, each in corpus["tests"].items()}
    for row in study["grid"]:
        row["seeds"] = row["seeds"][:1]
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a virtual environment as make sets it up, short configs, and a model, `trained`."""
    place = tmp_path_factory.mktemp("documents") / "checkout"
    unlike = shutil.ignore_patterns(".*", "__pycache__", "runs", "corpora", "site", "dist", "build")
    shutil.copytree(ROOT, place, symlinks=True, ignore=unlike)
    for path in (place / "configs").glob("*.yaml"):
        shorten(path)
    shorten_study(place / "configs" / "studies" / "quick.yaml")
    venv.create(place / ".venv", symlinks=True)
    packages = next((place / ".venv" / "lib").glob("*/site-packages"))
    (packages / "outer.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # what is installed for these tests, pip too
    pip = place / ".venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{place}/.venv/bin/python" -m pip "$@"\n')
    pip.chmod(0o755)
    run(place, "pip install --quiet --no-deps --no-build-isolation .")
    run(place, "python train.py configs/multi30k-de-en.yaml --run_dir trained")
    return place


def run(place: Path, code: str, language: str = "sh") -> None:
    """Runs a block as if typed in the folder."""
    environment = os.environ | {"PATH": f"{place}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(place)}
    command = ["python", "-c", code] if language == "python" else ["bash", "-euo", "pipefail", "-c", code]
    command[0] = str(shutil.which(command[0], path=environment["PATH"]))
    done = subprocess.run(
        command,
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{code}\n{done.stdout}"


def supply(place: Path, code: str) -> None:
    """What the reader of a block is taken to have: what it names, does not make, and no block before it made."""
    words = shlex.split(code.replace("\\\n", " "), comments=True)
    for before, word in zip(["", *words], words):
        if before in ("--output", "--run_dir", "--join"):
            continue
        run_name = re.fullmatch(r"runs/([\w-]+)|MODEL", word)
        if TEXT_FILE.search(word) and not any(place.glob(word)) and ".teacher." not in word:
            write_text(place / word.replace("*", "a"))
        elif word.endswith("/*.gz") and not any(place.glob(word)):
            write_text(place / word.replace("*", "a.de"))
        elif run_name and not (place / word).exists() and f"configs/{run_name[1]}.yaml" not in words:
            shutil.copytree(place / "trained", place / word)
        elif word in OWN_CONFIGS and not (place / word).exists():
            own = yaml.safe_load((place / "configs" / "multi30k-de-en.yaml").read_text(encoding="utf-8"))
            source, target = OWN_CONFIGS[word]
            own["data"] |= {"root": ".", "train": [{"source": [source], "target": [target]}], "test": []}
            own["data"]["valid"] = [{"source": ["valid.de"], "target": ["valid.en"]}]
            own["run_dir"] = f"runs/{Path(word).stem}"
            for name in ("train.de", "train.en", "valid.de", "valid.en"):
                write_text(place / name)
            (place / word).write_text(yaml.safe_dump(own), encoding="utf-8")
        elif word == "other-evaluation":
            test = "--source test.de --reference test.en --beams 1"
            run(place, f"python tools/evaluate.py trained {test} --output {word}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "document", [each for each in DOCUMENTS if any(block.runs for block in BLOCKS[each])], ids=lambda path: path.name
)
def test_the_commands_of_a_document_run_as_written(document: Path, checkout: Path, tmp_path: Path) -> None:
    place = tmp_path / "checkout"
    shutil.copytree(checkout, place, symlinks=True, ignore=shutil.ignore_patterns(".venv"))
    (place / ".venv").symlink_to(checkout / ".venv")
    for block in BLOCKS[document]:
        if block.runs:
            if block.language != "python":
                supply(place, block.code)
            try:
                run(place, block.code, block.language)
            except AssertionError as error:
                raise AssertionError(f"{document.relative_to(ROOT)}:{block.line}: {error}") from None
