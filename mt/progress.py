"""Progress on standard error: shown on a terminal only, with speed and time left."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(total: float | None, description: str, unit: str, **options: Any) -> Any:
    """A tqdm bar on standard error that stays silent when standard error is not a terminal.

    Args:
        total: units of work in all, or None where that is not known.
        description: what is being done, in one or two words.
        unit: name of one unit of work ("line", "step", "token").
        options: further tqdm options (`initial`, `unit_scale`, ...).

    Returns:
        The bar: `update(n)`, `set_postfix_str(text)`, `close()`, and usable in a `with` block.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        dynamic_ncols=True,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        **options,
    )


def log_line(text: str) -> None:
    """One line for people on standard error, kept clear of a bar that is being drawn."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr, flush=True)
