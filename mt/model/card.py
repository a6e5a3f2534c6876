"""The card of a published model: what it is, what it scores, and what its confidence is worth."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mt.config import Config
from mt.files.yaml_file import yaml_text


def model_card(
    config: Config, meta: Mapping[str, Any], name: str, results: Mapping[str, Any] | None = None, licence: str = ""
) -> str:
    """Markdown with the hub's YAML at its head, of a model with this config and meta.json; `results`: of an evaluation
    of it, whose figures the card tells."""
    data = config.data
    head: dict[str, Any] = {"language": [data.source_language, data.target_language]}
    head |= {"license": licence} if licence else {}
    head |= {"library_name": "mt", "pipeline_tag": "translation", "tags": ["translation", "calibration"]}
    if results is not None:
        text = ", ".join(map(str, (results.get("data") or {}).get("references") or ["test"]))
        metrics = [
            {"type": kind, "value": round(results[kind]["score"], 2), "name": kind.upper()}
            for kind in _measured(results)
        ]
        task = {"type": "translation", "name": f"{data.source_language}-{data.target_language}"}
        of = {"task": task, "dataset": {"type": text, "name": text}, "metrics": metrics}
        head["model-index"] = [{"name": name, "results": [of]}]
    parts = [f"---\n{yaml_text(head)}---", f"# {_plain(name)}"]
    parts.append(
        f"A Transformer that translates {data.source_language} to {data.target_language}, trained with mt: "
        f"{meta.get('parameters', 0):,} parameters, loss {_code(meta.get('loss', 'not known'))}, update "
        f"{meta.get('step', 0):,}."
    )
    parts.append(f'```python\nfrom mt import load\n\nprint(*load("{name}").translate(["..."]))\n```')
    if results is not None:
        parts += _figures(results)
    else:
        parts.append("It was published without an evaluation.")
    if fingerprints := meta.get("data"):
        rows = [(_code(key), _code(value)) for key, value in _flat(fingerprints)]
        parts += ["## Training data", _table(("fingerprint of", ""), rows)]
    return "\n\n".join(parts) + "\n"


def _figures(results: Mapping[str, Any]) -> list[str]:
    scores = []
    for kind in _measured(results):
        block: Any = results[kind]
        interval = "" if block.get("low") is None else f"[{block['low']:.2f}, {block['high']:.2f}]"
        scores.append((kind, f"{block['score']:.2f}", interval, _code(block["signature"])))
    errors = []
    for state, blocks in (("", results.get("calibration")), (", recalibrated", results.get("recalibrated"))):
        for kind, what in (("teacher_forced", "reference as prefix"), ("inference", "its own output")):
            if found := (blocks or {}).get(kind):
                figures = [found[key] for key in ("ece", "noise_floor", "confidence", "accuracy")]
                errors.append(
                    (
                        what + state,
                        *("-" if figure is None else f"{figure:.4f}" for figure in figures),
                        _code(found["signature"]),
                    )
                )
    told = results.get("data") or {}
    rows = [(_code(key), _code(value)) for key, value in _flat(told.get("fingerprints") or {})]
    return [
        "## Quality",
        _table(("", "score", "95 % interval", "signature"), scores),
        "## Confidence",
        "Calibration error of the tokens' probabilities, beside that of a perfectly calibrated model (noise floor).",
        _table(("", "ECE", "noise floor", "confidence", "accuracy", "signature"), errors),
        f"Measured on {told.get('lines', 0):,} lines:",
        _table(("test text", "fingerprint"), rows),
    ]


def _measured(results: Mapping[str, Any]) -> list[str]:
    return [kind for kind in ("bleu", "chrf", "ter") if (results.get(kind) or {}).get("score") is not None]


def _flat(tree: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(tree, dict):
        return [pair for key, value in tree.items() for pair in _flat(value, f"{prefix}{key} ")]
    if isinstance(tree, list):
        return [pair for place, value in enumerate(tree) for pair in _flat(value, f"{prefix}{place} ")]
    return [(prefix.strip(), str(tree))]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def _code(value: object) -> str:
    """As code in a cell: nothing in it is markup, and it ends neither the code nor the cell."""
    return "`" + " ".join(str(value).split()).replace("`", "'").replace("|", "\\|") + "`"
