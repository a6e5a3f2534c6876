"""The shape of results.json. Keys may be missing in the results of earlier versions, and others be there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from platform import python_version
from typing import Annotated, Any

from msgspec import Meta

from mt import __version__
from mt.metrics.bins import CalibrationBlock
from mt.metrics.quality import QualityBlock


class BeamBlock(QualityBlock, total=False):
    """What was measured of the output of one search."""

    repetitions: int
    """translations in which a piece of one to four words stands three times in a row"""
    mean_score: float | None
    """mean of what the search ranked the outputs by; None where a record has none"""
    calibration: dict[str, CalibrationBlock | None]
    """`inference`; at the top level `teacher_forced`, too"""
    sequence: dict[str, Any] | None
    """of the main beam, as `quality`, see mt.evaluation.sentences"""
    quality: dict[str, Any] | None


class Results(BeamBlock, total=False):
    """results.json: at its top level the figures of the default beam."""

    beam: int | None
    """None for the records of another system"""
    beams: dict[Annotated[str, Meta(pattern="^[1-9][0-9]{0,5}$")], BeamBlock]
    """by beam size"""
    decode: dict[str, float | str | None]
    """how the model searched, and how many lines were too long for it"""
    model: dict[str, Any]
    data: dict[str, Any]
    """TestSet.description, and `target_language`, which chose BLEU's tokeniser; None: not known"""
    sweep: list[dict[str, float | str | None]]
    """the main figures of each beam size with each length penalty"""
    config: dict[str, Any]
    """the model's, without the places where its files lie"""
    evaluation: dict[str, Any]
    """see `made_with`"""
    recalibrated: dict[str, Any]
    """both calibrations after recalibration, which maps these are, and what promises reached"""
    fit: dict[str, Any] | None
    """how unlike the text is to what confidence was fitted on; None: not known"""
    truth: dict[str, Any]
    """see mt.evaluation.oracle"""
    scores: dict[str, dict[str, Any]]
    """of other judges, by name, as `labels`, see mt.evaluation.judges"""
    labels: dict[str, Any]
    """of the tokens, if they are people's and not those by alignment"""
    files: dict[str, str]
    """digests of the files that belong to these results"""


def made_with(command: str, **further: Any) -> dict[str, Any]:
    """The `evaluation` block: date, the command as it was given, `further` facts, and versions."""
    packages = ("torch", "numpy", "sacrebleu", "sentencepiece")
    return {
        "date": datetime.now(timezone.utc).isoformat(" ", "seconds"),
        **({"command": command} if command else {}),
        **further,
        "versions": {"mt": __version__, "python": python_version(), **{name: version(name) for name in packages}},
    }


def sweep_row(beam: int, search: Mapping[str, Any], block: BeamBlock, forced: CalibrationBlock) -> dict[str, Any]:
    """An entry of `sweep`: the main figures of a beam size and length penalty; None: not known."""
    bleu, own = block.get("bleu") or {}, (block.get("calibration") or {}).get("inference") or {}
    return {
        "beam": beam,
        **search,
        "bleu": bleu.get("score"),
        **{f"bleu_{end}": bleu.get(end) for end in ("low", "high")},
        **{name: block.get(name) for name in ("length_ratio", "empties", "repetitions", "mean_score")},
        "ece_inference": own.get("ece"),
        **{f"ece_inference_{end}": own.get(f"ece_{end}") for end in ("low", "high")},
        "ece_teacher_forced": forced.get("ece"),
        "ece_eos": (own.get("eos") or {}).get("ece"),
    }
