from __future__ import annotations

from mt.errors import UserError


def test_a_user_error_is_one_line_whatever_its_text_was() -> None:
    assert str(UserError("no such file:\n  a.de\t;  check\n")) == "no such file: a.de ; check"
