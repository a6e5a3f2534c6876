"""The page of an evaluation: one HTML file without network, made from results.json and records.jsonl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mt.atomic import write_text
from mt.errors import UserError
from mt.report.figures import reliability_diagram

EMBEDDED_BYTES = 2_600_000
"""translations beyond this size stay out of the page, the least confident go in first: the page stays under 3 MB"""

CALIBRATION_TITLES = {
    "teacher_forced": "With the reference as prefix (teacher-forced)",
    "inference": "In the system's own output (inference)",
}


def write_report(folder: Path) -> Path:
    """Writes `report.html` and `figures/*.svg` into the folder of an evaluation.

    Args:
        folder: holds `results.json` and `records.jsonl`.

    Returns:
        The path of the page.

    Raises:
        UserError: one of the two files is missing or no JSON.
    """
    results = _read_results(folder / "results.json")
    rows = [_row(record) for record in _read_records(folder / "records.jsonl")]
    diagrams = {
        name: reliability_diagram(block, CALIBRATION_TITLES[name])
        for name, block in results.get("calibration", {}).items()
        if block
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in diagrams.items():
        write_text(folder / "figures" / f"reliability_{name}.svg", svg + "\n")
    write_text(folder / "report.html", render(results, rows, diagrams))
    return folder / "report.html"


def render(results: dict[str, Any], rows: list[dict[str, Any]], diagrams: dict[str, str]) -> str:
    """The page as text. `rows`: one per translation, in the order of the file, as `_row` makes them."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mt.report", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = _number
    embedded = _embed(rows)
    page = environment.get_template("report.html.j2").render(
        results=results,
        calibration={name: results["calibration"][name] for name in diagrams},
        titles=CALIBRATION_TITLES,
        diagrams=diagrams,
        rows_json=_script_json(embedded),
        rows_shown=len(embedded),
        rows_total=len(rows),
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a record is no UTF-8


def _read_results(path: Path) -> dict[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the results of an evaluation: {path}: {error}; run evaluate again") from error
    if not isinstance(results, dict):
        raise UserError(f"not the results of an evaluation: {path}; run evaluate again")
    return results


def _read_records(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the records of an evaluation: {path}: {error}; run evaluate again") from error


def _row(record: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one translation, under short names because there are thousands.

    `n` line from 1, `s` source, `r` references, `c` confidence in thousandths or null, `q` sentence chrF or null,
    and either `t` the tokens, `p` their confidences in thousandths and `w` a digit each ("1" right, "0" wrong),
    or `h` the plain translation where there are no tokens.
    """
    row: dict[str, Any] = {
        "n": record["line"] + 1,
        "s": record.get("source", ""),
        "r": record.get("references") or [record.get("reference", "")],
        "c": _thousandths(record.get("confidence")),
        "q": None if record.get("chrf") is None else round(record["chrf"], 1),
    }
    if record.get("token_confidence"):
        row["t"] = record["tokens"]
        row["p"] = [_thousandths(confidence) for confidence in record["token_confidence"]]
        row["w"] = "".join("01"[label] for label in record.get("correct") or [])
    else:
        row["h"] = record["translation"]
    return row


def _thousandths(confidence: float | None) -> int | None:
    return None if confidence is None else round(1000 * confidence)


def _embed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that fit into the page: all of them, or the least confident."""
    order = sorted(rows, key=lambda row: (row["c"] is None, row["c"] or 0))
    size, fitting = 0, []
    for row in order:
        size += len(_script_json(row).encode("utf-8", "replace")) + 1
        if size > EMBEDDED_BYTES:
            break
        fitting.append(row)
    return sorted(fitting, key=lambda row: row["n"])


def _script_json(value: Any) -> Any:
    """JSON that is safe inside a script element: text cannot end the element nor the line."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _number(value: float | None, digits: int = 1) -> str:
    """A figure of the tables; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"
