"""How the outputs of a sentence are searched for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from mt.config import DecodeConfig
from mt.errors import UserError

PENALTIES = ("none", "average", "gnmt")


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """What every engine is told about the search; see `DecodeConfig`."""

    beam: int
    nbest: int = 1
    length_penalty: str
    length_alpha: float
    batch_tokens: int
    token_scores: bool = True
    """whether the log-probability of each token is wanted; an engine that has them at no cost gives them anyway"""

    def __post_init__(self) -> None:
        for name in ("beam", "nbest", "batch_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.nbest > self.beam:
            raise UserError(
                f"nbest is {self.nbest}; it must be at most beam, {self.beam}: raise beam or lower nbest"
            )
        if self.length_penalty not in PENALTIES:
            raise UserError(
                f"length_penalty is {self.length_penalty!r}; it must be one of {', '.join(PENALTIES)}"
            )
        if not 0 <= self.length_alpha < float("inf"):
            raise UserError(f"length_alpha is {self.length_alpha}; it must be 0 or more")


def search_options(config: DecodeConfig, **given: Any) -> SearchOptions:
    """The fields of SearchOptions that are given and not None; the rest as the model's config says."""
    names = {field.name for field in fields(SearchOptions)}
    configured = {name: getattr(config, name) for name in names if hasattr(config, name)}
    return SearchOptions(**configured | {name: value for name, value in given.items() if value is not None})
