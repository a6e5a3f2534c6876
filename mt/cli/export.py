"""`tools/export.py MODEL`: the model in another program's format."""

from __future__ import annotations

from pathlib import Path

from mt.cli.main import DONE, CommandParser, check_new
from mt.errors import UserError
from mt.progress import log_line, say


def main(arguments: list[str] | None = None) -> int:
    """Writes a folder that CTranslate2, or Hugging Face's MarianMTModel and MarianTokenizer, loads."""
    parser = CommandParser(
        description="Writes a model for other programs. ctranslate2: what ctranslate2.Translator loads, with the\n"
        "SentencePiece models beside it; pieces go in as SentencePiece gives them, without </s>, which is added.\n"
        "marian: what MarianMTModel and MarianTokenizer of transformers load; post-norm models with sinusoidal\n"
        "positions only. The hub's repository is a model directory with a card; load(NAME) and all commands take its "
        "name.",
        example="runs/demo --format ctranslate2 --output demo-ct2",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory or run directory")
    add = parser.add_argument
    add("--format", choices=("ctranslate2", "marian"))
    add("--output", type=Path, metavar="DIR", help="folder to make")
    add("--hub", metavar="NAME", help="publish the model directory on the Hugging Face hub, as organisation/model")
    add("--evaluation", type=Path, metavar="DIR", help="hub: what evaluate wrote of this model, for its card")
    add("--license", default="", metavar="L", help="hub: of the model, by the hub's names, as in apache-2.0")
    add("--private", action="store_true", default=None, help="hub: make a private repository")
    given = parser.parse_args(arguments)
    if given.hub:
        if given.format or given.output:
            raise UserError("--hub publishes the model as it is; leave out --format and --output")
        from mt.model.directory import load_model
        from mt.model.hub import publish

        loaded = load_model(given.model, "cpu", at_once=False)
        options = {"licence": given.license, "private": given.private}
        say(publish(loaded.folder, loaded.config, loaded.meta, given.hub, given.evaluation, **options))
        return DONE
    if not (given.format and given.output):
        raise UserError("give --format and --output, or --hub ORGANISATION/MODEL; --help tells more")
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
