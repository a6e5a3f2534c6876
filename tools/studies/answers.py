"""From the records of all cells that are done to results.json: figures of each cell, curves, and the questions."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mt.errors import UserError
from mt.files.json_file import read_json
from mt.losses.smoothing import label_smoothed_kl
from mt.metrics.bins import CalibrationBins
from mt.metrics.noise import Floats, holm, resampled_counts
from tools.studies.cells import FORCED, INSPECTION, Place, read_cell, records_of
from tools.studies.measures import OF_INSPECTION, inspection_of, measure
from tools.studies.plan import MAIN, Cell, Comparison, cells_of
from tools.studies.records import read
from tools.studies.statistics import MARGINS, OTHER_MARGIN, Difference, decision, two_level_difference, verdict

_RESAMPLES, _SEED = 1000, 12345
_FIGURES: tuple[str, ...] = ("bleu", "chrf", "length_ratio", "selection", "ece_output", "gap_output")  # of the output
_FIGURES += ("nll", "accuracy", "ece", "gap", "auroc", "augrc", "tempered_nll", "tempered_ece")  # behind references
_WITH_TRUTH = ("kl", "exact_ece", "valid")
_OF_SEARCH = ("bleu", "chrf", "length_ratio", "ece_output", "gap_output", "log_prob")
_CURVE_BINS = 20


class Answers:
    """Reads the cells that are done, each file once."""

    def __init__(self, place: Place) -> None:
        self.place, self.study = place, place.study
        self.cells = [cell for cell in cells_of(place.study) if (place.folder(cell) / "cell.json").exists()]
        self.figure = lru_cache(maxsize=None)(self._figure)
        self.replicates = lru_cache(maxsize=None)(self._replicates)

    def results(self) -> dict[str, Any]:
        """All of results.json."""
        return {
            "title": self.study.title,
            "indication": self.study.indication,
            "cells": [self._cell(cell) for cell in self.cells],
            "missing": [cell.name for cell in cells_of(self.study) if cell not in self.cells],
            "questions": {name: self._question(name) for name in self.study.questions},
            "curves": self._curves(),
            "reliability": self._reliability(),
            "inspection": self._inspection(),
            "padding": padding_curve(),
        }

    def _main_test(self, corpus: str) -> str:
        return next(iter(self.study.corpora[corpus].tests))

    def _figure(self, cell: Cell, test: str, search: str, outcome: str) -> float:
        return float(measure(self.place.folder(cell), test, search, outcome).value())

    def _replicates(self, cell: Cell, test: str, search: str, outcome: str) -> Floats:
        """The outcome on each resample of the text's lines, the same resamples for every cell."""
        found = measure(self.place.folder(cell), test, search, outcome)
        lines = len(read(records_of(self.place.folder(cell), test, FORCED))["words"])
        return np.array([found.value(each.astype(float)) for each in resampled_counts(lines, _RESAMPLES, _SEED)])

    def _cell(self, cell: Cell) -> dict[str, Any]:
        """Facts and figures of a cell, on each text and with each search that was measured."""
        folder, tests = self.place.folder(cell), {}
        kept = read_cell(folder)
        for test, text in self.study.corpora[cell.corpus].tests.items():
            if not records_of(folder, test, MAIN).exists():
                continue
            names = (*_FIGURES, *(_WITH_TRUTH if text.pairs else ()))
            block: dict[str, Any] = {name: round(self.figure(cell, test, MAIN, name), 6) for name in names}
            of_search = (*_OF_SEARCH, *(("valid",) if text.pairs else ()))
            searches = [each for each in cell.searches if records_of(folder, test, each).exists()]
            block["searches"] = {
                search: {name: round(self.figure(cell, test, search, name), 6) for name in of_search}
                for search in searches
            }
            tests[test] = block
        facts = ("loss", "step", "threads", "temperature", "training_seconds", "measuring_seconds", "versions", "curve")
        return {
            "name": cell.name,
            "group": cell.group,
            "seed": cell.seed,
            **{k: kept.get(k) for k in facts},
            "tests": tests,
        }

    def _question(self, name: str) -> dict[str, Any]:
        """A question with its comparisons, p values adjusted among them, decisions, and the verdict."""
        question = self.study.questions[name]
        found = [(each, self._difference(each)) for each in question.comparisons]
        known = [(each, difference) for each, difference in found if difference is not None]
        adjusted = holm([difference.p for _, difference in known])
        same = holm([difference.p_same for _, difference in known])
        rows, decisions = [], []
        for (each, difference), p, p_same in zip(known, adjusted, same):
            decisions.append(decision(difference, each.claim, p, p_same))
            rows.append({**_named(each), **difference._asdict(), "p_adjusted": p, "decision": decisions[-1]})
        rows += [{**_named(each), "decision": "not run"} for each, difference in found if difference is None]
        return {"statement": question.statement, "verdict": verdict(decisions), "comparisons": rows}

    def _difference(self, each: Comparison) -> Difference | None:
        """None where no seed has both cells with all that is compared."""
        of_seed: list[dict[int, Cell]] = [
            {cell.seed: cell for cell in self.cells if cell.group == group} for group in (each.first, each.second)
        ]
        corpus = each.first.partition("/")[0]
        test = each.test or self._main_test(corpus)
        outcomes = (each.outcome, each.second_outcome or each.outcome)
        measured, drawn = [], []
        for seed in sorted(of_seed[0].keys() & of_seed[1].keys()):
            pair = [own[seed] for own in of_seed]
            if not all(self._has(cell, test, each) for cell in pair):
                continue
            values, resampled = [], []
            for cell, outcome in zip(pair, outcomes):
                value = self.figure(cell, test, each.search, outcome)
                replicates = self.replicates(cell, test, each.search, outcome)
                if each.less:
                    value = value - self.figure(cell, test, each.less, outcome)
                    replicates = replicates - self.replicates(cell, test, each.less, outcome)
                values.append(value)
                resampled.append(replicates)
            measured.append(values[0] - values[1])
            drawn.append(resampled[0] - resampled[1])
        if not measured:
            return None
        return two_level_difference(np.array(measured), np.array(drawn), MARGINS.get(each.outcome, OTHER_MARGIN))

    def _has(self, cell: Cell, test: str, each: Comparison) -> bool:
        """Whether a cell has been measured with all that is compared."""
        folder = self.place.folder(cell)
        needed = [records_of(folder, test, search) for search in (each.search, each.less) if search]
        inside = each.outcome not in OF_INSPECTION or ((folder / INSPECTION).exists() and bool(inspection_of(folder)))
        return inside and all(path.exists() for path in needed)

    def _inspection(self) -> dict[str, Any]:
        """What is inside the models of a group of cells: means over seeds, and what the loss would have at its end."""
        blocks: dict[str, Any] = {}
        for group in dict.fromkeys(cell.group for cell in self.cells):
            folders = [self.place.folder(cell) for cell in self.cells if cell.group == group]
            found = [inside for each in folders if (each / INSPECTION).exists() and (inside := inspection_of(each))]
            if not found:
                continue
            means = {name: float(np.mean([figure(each) for each in found])) for name, figure in OF_INSPECTION.items()}
            gradients = {
                name: [_mean_of_known([each["gradients"][name][place] for each in found]) for place in range(10)]
                for name in ("tokens", "loss_norm", "loss_pull", "cross_entropy_pull")
            }
            expected = found[0]["margins"]["expected"]
            blocks[group] = {"seeds": len(found), **means, "margin_expected": expected, "gradients": gradients}
        return blocks

    def _curves(self) -> dict[str, Any]:
        """Model probability against true probability, by group of cells on text of the grammar: of tokens that can come
        next, in bins of the true probability, the mean of both and the quartiles of the model's."""
        curves: dict[str, Any] = {}
        for group in dict.fromkeys(cell.group for cell in self.cells):
            cells = [cell for cell in self.cells if cell.group == group]
            test = self._main_test(cells[0].corpus)
            if not self.study.corpora[cells[0].corpus].tests[test].pairs:
                continue
            read_ones = [read(records_of(self.place.folder(cell), test, FORCED)) for cell in cells]
            true, model = (
                np.concatenate([each[f"curve_{side}"] for each in read_ones]).astype(float)
                for side in ("true", "model")
            )
            place = np.minimum((true * _CURVE_BINS).astype(int), _CURVE_BINS - 1)
            rows = []
            for number in np.unique(place).tolist():
                own = place == number
                quartiles = np.quantile(model[own], [0.25, 0.5, 0.75]).round(5).tolist()
                mean = {"true": round(float(true[own].mean()), 5), "model": round(float(model[own].mean()), 5)}
                rows.append({"count": int(own.sum()), **mean, "quartiles": quartiles})
            curves[group] = rows
        return curves

    def _reliability(self) -> dict[str, Any]:
        """Accuracy against confidence of reference tokens in 15 bins, all seeds of a group together."""
        blocks: dict[str, Any] = {}
        for group in dict.fromkeys(cell.group for cell in self.cells):
            cells = [cell for cell in self.cells if cell.group == group]
            test = self._main_test(cells[0].corpus)
            read_ones = [read(records_of(self.place.folder(cell), test, FORCED)) for cell in cells]
            certain = np.concatenate([each["confidence"] for each in read_ones]).astype(float).clip(0, 1)
            right = np.concatenate([each["right"] for each in read_ones]).astype(float)
            bins = CalibrationBins()
            bins.update(certain, right)
            block: Any = bins.block()
            wanted = ("low", "high", "count", "confidence", "accuracy", "band_low", "band_high")
            blocks[group] = {
                **{name: block[name] for name in ("tokens", "ece", "accuracy", "confidence")},
                "bins": [{name: each[name] for name in wanted} for each in block["bins"]],
            }
        return blocks


def _mean_of_known(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 6) if known else None


def padding_curve() -> list[dict[str, float]]:
    """One and the same batch of eight targets, 5 to 12 tokens, with more and more columns of padding: its cross-entropy
    as the mean over all rows (as one of the published snippets takes it), the same where rows of padding count 0 (the
    other one), and as the mean over real tokens. Logits of 50 classes are drawn; padding, which a model never has to
    predict, lies 6 nats below."""
    generator, pad_id, lengths = torch.Generator().manual_seed(1), 0, range(5, 13)
    logits = torch.randn(8, 12, 50, generator=generator, dtype=torch.float64)
    targets = torch.randint(1, 50, (8, 12), generator=generator)
    for row, length in zip(targets, lengths):
        row[length:] = pad_id
    rows = []
    for columns in range(0, 25, 4):
        wide = torch.nn.functional.pad(targets, (0, columns), value=pad_id)
        # what a decoder makes of padding is as good as drawn, too
        more = torch.randn(8, columns, 50, generator=generator, dtype=torch.float64)
        everything = torch.cat([logits, more], 1)
        everything[..., pad_id] -= 6
        every_row = torch.nn.functional.cross_entropy(everything.flatten(0, 1), wide.flatten(), reduction="none")
        real = label_smoothed_kl(everything, wide, smoothing=0.0, definition="uniform", pad_id=pad_id)
        figures = {
            "all_rows": every_row.mean(),
            "zeroed_rows": real.mean(),
            "real_rows": real.sum() / (wide != 0).sum(),
        }
        rows.append({"columns": columns, **{name: round(float(value), 6) for name, value in figures.items()}})
    return rows


def _named(each: Comparison) -> dict[str, Any]:
    names = ("first", "second", "outcome", "second_outcome", "claim", "test", "search", "less")
    return {name: value for name in names if (value := getattr(each, name))}


def answer(place: Place) -> dict[str, Any]:
    """results.json of what is done."""
    return Answers(place).results()


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. Raises UserError where it is none."""
    remedy = "make it again with tools/study.py"
    results = read_json(path, dict[str, Any], remedy)
    if missing := {"title", "questions", "cells", "curves", "inspection"} - results.keys():
        raise UserError(f"{path}: is not of a study, it has no {missing.pop()}; {remedy}")
    return results
