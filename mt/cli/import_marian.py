"""`tools/import_marian.py FOLDER`: a Marian model of Hugging Face's format as a model directory."""

from __future__ import annotations

from pathlib import Path

from mt.cli.main import DONE, CommandParser, check_new, suggest
from mt.progress import log_line


def main(arguments: list[str] | None = None) -> int:
    """Reads config, weights, SentencePiece models and vocabulary; writes a model directory."""
    parser = CommandParser(
        description="Turns a downloaded Marian model (OPUS-MT and others, in Hugging Face's format) into a model\n"
        "directory, to translate with, evaluate and calibrate like any other. Nothing is downloaded, nothing\n"
        "unpickled.",
        example="opus-mt-de-en --output opus-de-en",
    )
    holds = "config.json, model.safetensors or pytorch_model.bin, source.spm, target.spm and vocab.json"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"holds {holds}")
    parser.add_argument("--output", type=Path, required=True, metavar="MODEL_DIR", help="model directory to make")
    given = parser.parse_args(arguments)
    check_new(given.output)
    from mt.decoding.translator import Translator
    from mt.files.atomic import atomic_folder
    from mt.interop.marian_import import read_marian
    from mt.model.directory import load_model, save_model

    model, tokenizer, config = read_marian(given.folder)
    with atomic_folder(given.output) as folder:
        save_model(folder, model, tokenizer, config, {"step": 0, "imported_from": "marian"})
        # A model that could not be loaded or could not translate does not appear.
        next(Translator(load_model(folder, "cpu")).translate(["a"], beam=1, max_output=8))
    log_line(f"wrote {given.output}")
    suggest("translate", given.output, "--input F --output F")
    return DONE
