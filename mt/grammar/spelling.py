"""From the words of the grammar to a written sentence, and back: contraction, elision, punctuation, capital."""

from __future__ import annotations

import re
from typing import Any

SOFT_COMMA = ",?"  # closes a clause: written only where no other mark follows


def _alternatives(words: list[str]) -> str:
    """A group of a regular expression that matches any of the words, longest first; nothing where there is none."""
    ordered = sorted(map(re.escape, words), key=len, reverse=True)
    return "(" + "|".join(ordered) + ")" if ordered else "((?!))"


class Spelling:
    """Spelling of one language; `settings` come from `data/grammar/<language>.yaml`, key `spelling`.

    `before_vowel`: words that change before a vowel (`le: l'`); `vowel`, `not_vowel`: starts of words that
    count as a vowel or do not (h aspiré); `contractions`: pairs of words written as one (`in dem: im`);
    `attached`: words written with a hyphen after the verb; `apart`: endings read as words of their own.
    A word ending in `_` takes no part in contractions (clitic pronouns against articles).
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self._before_vowel: dict[str, str] = settings.get("before_vowel", {})
        self._contractions: dict[str, str] = settings.get("contractions", {})
        attached = _alternatives(["-" + word for word in settings.get("attached", [])])
        exceptions = _alternatives(settings.get("not_vowel", []))
        self._vowel_pattern = re.compile(
            rf"(?<![^ ]){_alternatives(list(self._before_vowel))} (?!{exceptions}\b)"
            rf"(?={_alternatives(settings['vowel'])})",
            re.IGNORECASE,
        )
        self._contraction_pattern = re.compile(rf"(?<![^ ]){_alternatives(list(self._contractions))}(?![^ ])")
        marks = settings.get("marks_attached", ",.?!")
        self._attach_pattern = re.compile(rf" (?=[{marks}]|'s?(?![\w])|{attached}(?:[ -]|$))")
        self._soft_comma = re.compile(r" ,\?(?= ,\?| [,.?!]|$)")
        apart = _alternatives(settings.get("apart", []))
        self._apart_pattern = re.compile(rf"(?:{apart}|{attached})(?![\w'])")
        self._token_pattern = re.compile(settings["token"])
        self._expand: dict[str, str] = {whole: pair for pair, whole in self._contractions.items()}
        self._same: dict[str, str] = settings.get("same", {})

    def _vowel(self, match: re.Match[str]) -> str:
        word = self._before_vowel[match.group(1)]
        return word if word.endswith("'") else word + " "

    def write(self, words: str) -> str:
        """The sentence of a string of words with spaces between them."""
        text = self._soft_comma.sub("", words).replace(SOFT_COMMA, ",")
        text = self._vowel_pattern.sub(self._vowel, text)  # before contractions: à l'ami, and not au ami
        text = self._contraction_pattern.sub(lambda match: self._contractions[match.group(1)], text)
        text = self._attach_pattern.sub("", text).replace("_", "")
        return text[0].upper() + text[1:]

    def tokens(self, text: str) -> tuple[str, ...]:
        """Words in the one form that parsing compares: `du` is `de` `L`, as are `le`, `la` and `l'` `L`."""
        text = self._apart_pattern.sub(r" \g<0>", text.replace("_", ""))
        expanded: list[str] = []
        for token in self._token_pattern.findall(text):
            expanded.extend(self._expand.get(token, token).split())
        return tuple(self._same.get(token, token) for token in expanded)
