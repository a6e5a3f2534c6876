"""What people found wrong in translations, as labels of tokens in place of those by alignment with a reference.

Three forms, told apart by the first line of the file (see docs/calibration.md for where they come from):

- tags: a line for each translation, OK or BAD for each of its words, and one more for the end of the sentence
  (WMT 2022 and 2023), or one for each gap between words, before the first and behind the last one, too (to 2021);
- MQM: columns with names, a row for each error, marked by <v> and </v> in the target;
- spans: WMT-QE's task on error spans, 9 columns (system, document, segment, rater, source and target in either order,
  starts, ends, severities), or 7 (languages, method, number of the line from 0, target, starts, ends, severities). A
  span ends before its end; one without length stands for the character there, as the task's own program counts.

A token is wrong where a span covers a character of it, in the eyes of half of its raters or more; no-error and neutral
are no errors. A missing word makes the word behind the gap wrong, as in WMT's tags and in labels by alignment. An end
of sentence that nobody tagged has no label.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mt.errors import UserError
from mt.evaluation.records import Record
from mt.files.lines import check_equally_many, read_lines
from mt.metrics.labels import END, characters_of_tokens
from mt.progress import log_line

Span = tuple[int, int]
"""first character, and the one behind the last"""

_NO_ERROR = ("", "no-error", "no error", "neutral")  # severities, in small letters
_FORMS = "OK/BAD tags, MQM with a line of column names, or WMT-QE's spans in 7 or 9 columns"
_TAGS = {"tags of words": (1, 0), "tags of words and the end": (1, 1), "tags of words and gaps": (2, 1)}


class _Row(NamedTuple):
    keys: list[tuple[int | str, str]]
    """line number or source, and text: what may name the line"""
    segment: tuple[str, ...]
    """tells texts that are repeated apart"""
    rater: tuple[str, ...]
    """with the system: one may have rated the same text of two"""
    spans: list[Span]


class HumanLabels:
    """A file of such labels, of `lines` translations. Raises UserError where it has none of the forms."""

    def __init__(self, path: Path, lines: int) -> None:
        self.path, self.form = path, ""
        self.tags: list[list[str]] = []
        self.segments: dict[tuple[int | str, str], dict[tuple[str, ...], dict[tuple[str, ...], list[Span]]]] = {}
        """spans of each rater of each segment, by what may name the line"""
        rows = [line.split("\t") for line in read_lines([path])]
        head = [name.strip().lower() for name in rows[0]] if rows else []
        if {"target", "severity"} <= {*head}:
            self.form, found = "MQM", self._mqm(head, rows[1:])
        elif len(head) in (7, 9):
            self.form, found = "spans", self._spans(rows)
        elif rows and all(len(row) == 1 and {*row[0].split()} <= {"OK", "BAD"} for row in rows):
            check_equally_many(path, len(rows), "the test set", lines)
            self.tags, found = [row[0].split() for row in rows], iter(())
        else:
            raise UserError(f"{path}: no labels that are known: {_FORMS}; see docs/calibration.md")
        for row in found:
            for key in row.keys:
                ratings = self.segments.setdefault(key, {}).setdefault(row.segment, {})
                ratings.setdefault(row.rater, []).extend(row.spans)

    def apply(self, records: Sequence[Record]) -> dict[str, Any]:
        """Labels the tokens of records: `correct`, None where nobody has looked, and `labels`: people. Returns the
        block `labels` of results.json. Raises UserError where the labels are of other translations."""
        judged = self._of_tags(records) if self.tags else list(self._of_segments(records))
        unspelled = 0
        for record, (raters, end_wrong) in zip(records, judged):
            tokens, text = record.get("tokens") or [], record["translation"]
            record |= {"labels": "people"} if tokens else {}
            places = characters_of_tokens(tokens, text)
            if places is None:
                unspelled += 1
                record["correct"] = [None] * len(tokens)
            elif tokens:
                margin = len(text) - len(text.lstrip())  # spans are of the text without what surrounds it
                record["correct"] = [_right([place - margin for place in each], raters) for each in places]
                if end_wrong is not None and tokens[-1] == END:
                    record["correct"][-1] = not end_wrong
        if unspelled:
            log_line(f"note: {unspelled} lines are left out of the labels: their tokens do not spell their translation")
        known = [each for record in records for each in record.get("correct") or [] if each is not None]
        return {
            "by": "people",
            "file": self.path.name,
            "form": self.form,
            "tokens": len(known),
            "wrong": known.count(False),
            "most_raters": max(len(raters) for raters, _ in judged),
            "lines_left_out": unspelled,
        }

    def _of_segments(self, records: Sequence[Record]) -> Iterator[tuple[list[list[Span]], None]]:
        """By the text of the lines; one that is repeated takes the segments of that text in turn."""
        seen: Counter[tuple[int | str, str]] = Counter()
        for record in records:
            text, number = record["translation"].strip(), record["line"]
            keys: list[tuple[int | str, str]] = [(number, text), (str(record.get("source") or "").strip(), text)]
            key = next((each for each in keys if each in self.segments), None)
            if key is None:
                raise UserError(
                    f"{self.path}: has no row of line {number + 1} with its source and translation; people must have "
                    "judged these very translations, DIR/hypotheses.txt of an earlier evaluation"
                )
            segments = list(self.segments[key].values())
            yield list(segments[seen[key] % len(segments)].values()), None
            seen[key] += 1

    def _of_tags(self, records: Sequence[Record]) -> list[tuple[list[list[Span]], bool | None]]:
        """By the form of tags that fits most lines, which must fit all of them."""
        words = [[each.span() for each in re.finditer(r"\S+", record["translation"].strip())] for record in records]
        unfit = {
            form: [line for line, each in enumerate(words) if len(self.tags[line]) != factor * len(each) + more]
            for form, (factor, more) in _TAGS.items()
        }
        self.form = min(unfit, key=lambda form: len(unfit[form]))
        if lines := unfit[self.form]:
            given, count = len(self.tags[lines[0]]), len(words[lines[0]])
            raise UserError(
                f"{self.path}: line {lines[0] + 1} has {given} tags for a translation of {count} words; wanted are, in "
                f"all lines, n for n words (here {count}), n + 1 with the end, or 2 n + 1 with the gaps"
            )
        step, more = _TAGS[self.form]
        found: list[tuple[list[list[Span]], bool | None]] = []
        for tags, spans in zip(self.tags, words):
            own = [tags[step * word : step * (word + 1)] for word in range(len(spans))]  # the gap before it, too
            wrong = [span for span, of_word in zip(spans, own) if "BAD" in of_word]
            found.append(([wrong], tags[-1] == "BAD" if more else None))
        return found

    def _mqm(self, names: list[str], rows: list[list[str]]) -> Iterator[_Row]:
        for number, cells in enumerate(rows, 2):
            if len(cells) < len(names) or any(cells[len(names) :]):
                raise UserError(f"{self.path}, line {number}: has {len(cells)} columns, the first line {len(names)}")
            row = dict(zip(names, cells))
            error = row["severity"].strip().lower() not in _NO_ERROR
            for source in _as_written(re.sub("</?v>", "", row.get("source", ""))):
                for target in _as_written(row["target"]):
                    text, spans = _marked(target)
                    segment, rater = (
                        tuple(row.get(name, "") for name in names)
                        for names in (("doc", "doc_id", "seg_id"), ("system", "rater"))
                    )
                    yield _Row([(source, text)], segment, rater, spans if error else [])

    def _spans(self, rows: list[list[str]]) -> Iterator[_Row]:
        for number, cells in enumerate(rows, 1):
            *before, starts, ends, severities = cells[: len(rows[0])]  # some have a tab more at their end
            try:
                bounds = list(zip(map(int, starts.split()), map(int, ends.split()), severities.split(), strict=True))
                names = [int(before[2])] if len(rows[0]) == 7 else []
            except (ValueError, IndexError):
                if number == 1:  # names of the columns
                    continue
                wanted = "as many starts, ends and severities, and a line number in 7 columns"
                raise UserError(f"{self.path}, line {number}: not as expected in WMT-QE's spans; {wanted}") from None
            spans = [
                (start, max(end, start + 1))
                for start, end, severity in bounds
                if start >= 0 and severity.lower() not in _NO_ERROR
            ]
            if names:
                keys: list[tuple[int | str, str]] = [(names[0], each) for each in _as_written(before[3])]
            else:
                sides = [_as_written(each) for each in before[-2:]]
                keys = [pair for a in sides[0] for b in sides[1] for pair in ((a, b), (b, a))]
            system, *segment, rater = before[:4] if not names else ("", "")
            yield _Row(keys, tuple(segment), (system, rater), spans)


def _right(places: list[int], raters: list[list[Span]]) -> bool | None:
    """Whether fewer than half of the raters find one of these characters wrong; None: there are none."""
    if not places:
        return None
    wrong = [any(start <= place < end for start, end in spans for place in places) for spans in raters]
    return 2 * sum(wrong) < len(wrong)


def _as_written(cell: str) -> list[str]:
    """A cell as it stands and, where it is quoted as some programs do, without the quotes; no space around it."""
    cell, texts = cell.strip(), [cell.strip()]
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        texts.append(cell[1:-1].replace('""', '"').strip())
    return texts


def _marked(target: str) -> tuple[str, list[Span]]:
    """A target without its marks, and what they mark."""
    text, start, spans = "", 0, []
    for part in re.split("(</?v>)", target):
        if part == "<v>":
            start = len(text)
        elif part == "</v>":
            spans.append((start, max(len(text), start + 1)))
        else:
            text += part
    margin = len(text) - len(text.lstrip())
    return text.strip(), [(first - margin, last - margin) for first, last in spans]
