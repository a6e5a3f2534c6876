from __future__ import annotations

import errno

import pytest

from mt.errors import UserError, concerning, visible


def test_a_user_error_is_one_line_whatever_its_text_was() -> None:
    assert str(UserError("no such file:\n  a.de\t;  check\n")) == "no such file: a.de ; check"


def test_what_a_terminal_would_obey_or_hide_is_shown() -> None:
    assert (
        visible("a\x1b[31m\x07\x9b\u202e\u200b\udcff\xad ü狗") == "a\\x1b[31m\\x07\\x9b\\u202e\\u200b\\udcff\\xad ü狗"
    )
    assert str(UserError("no file \x1b]0;x\x07")) == "no file \\x1b]0;x\\x07"


def test_an_error_that_names_no_file_gets_a_name_and_one_that_does_keeps_it() -> None:
    for named, name in ((None, "out"), ("other", "other")):
        with pytest.raises(OSError) as raised, concerning("out"):
            raise OSError(errno.ENOSPC, "No space left on device", named)
        assert raised.value.filename == name
