"""The errors that a person can mend. Every command prints them as one line and exits with code 2."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the program is wrong: a file, a setting, an option.

    The message is one line that says what, where, and what to do about it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
