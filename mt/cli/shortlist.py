"""`tools/shortlist.py MODEL`: a lexical shortlist, for faster translation."""

from __future__ import annotations

from pathlib import Path

from mt.cli.main import DONE, CommandParser, positive, suggest
from mt.errors import UserError
from mt.progress import log_line


def main(arguments: list[str] | None = None) -> int:
    """Learns a shortlist from the model's training data and stores it in the model directory."""
    parser = CommandParser(
        description="Learns from the training data of a model which pieces translate which, and stores that in the\n"
        "model directory as shortlist.safetensors: translate MODEL --shortlist then chooses among the likeliest\n"
        "pieces a line. The data are those of the model's config.yaml, from the cache where they are prepared.",
        example="runs/demo",
    )
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model directory, or run directory (its best model)")
    add("--likely", type=positive, default=50, metavar="N", help="pieces for each source piece (default: 50)")
    add("--frequent", type=positive, default=1500, metavar="N", help="pieces for every line (default: 1500)")
    given = parser.parse_args(arguments)
    from mt.corpus.prepare import prepare
    from mt.decoding.shortlist import FILE, learn_shortlist, save_shortlist
    from mt.model.directory import load_model

    loaded = load_model(given.model, "cpu")
    train = loaded.config.train  # a model that began as another one, or had a teacher, has that one's pieces
    prepared = prepare(loaded.config, loaded.tokenizer if train.init_from or train.teacher else None)
    if prepared.tokenizer.fingerprint != loaded.tokenizer.fingerprint:
        raise UserError(f"{loaded.folder}: its training data give another tokenizer now; restore the text it had")
    shortlist = learn_shortlist(prepared.train, loaded.tokenizer, given.frequent, given.likely)
    save_shortlist(shortlist, loaded.folder)
    log_line(f"wrote {loaded.folder / FILE}")
    suggest("translate", given.model, "--shortlist --input F --output F")
    return DONE
