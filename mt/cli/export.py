"""`tools/export.py MODEL`: the model in another program's format."""

from __future__ import annotations

from pathlib import Path

from mt.cli.main import DONE, CommandParser, check_new
from mt.progress import log_line


def main(arguments: list[str] | None = None) -> int:
    """Writes a folder that CTranslate2, or Hugging Face's MarianMTModel and MarianTokenizer, loads."""
    parser = CommandParser(
        description="Writes a model for other programs. ctranslate2: what ctranslate2.Translator loads, with the\n"
        "SentencePiece models beside it; pieces go in as SentencePiece gives them, without </s>, which is added.\n"
        "marian: what MarianMTModel and MarianTokenizer of transformers load; post-norm models with sinusoidal\n"
        "positions only.",
        example="runs/demo --format ctranslate2 --output demo-ct2",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory or run directory")
    parser.add_argument("--format", choices=("ctranslate2", "marian"), required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to make")
    given = parser.parse_args(arguments)
    check_new(given.output)
    from mt.files.atomic import atomic_folder
    from mt.interop.ctranslate2_export import export_ctranslate2
    from mt.interop.marian_export import export_marian
    from mt.model.directory import load_model

    loaded = load_model(given.model, "cpu")
    with atomic_folder(given.output) as folder:
        if given.format == "marian":
            export_marian(loaded, folder)
        else:
            export_ctranslate2(loaded, folder)
            loaded.tokenizer.save(folder)
    log_line(f"wrote {given.output}")
    return DONE
