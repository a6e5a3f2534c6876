"""`prepare` shows what was read, kept and dropped in a table that fits any terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from mt.cli.prepare import main


def test_a_table_of_80_columns_tells_by_corpus_and_rule_what_was_dropped(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny_config.parent
    long = folder / f"{'long' * 20}.txt"
    long.write_text("die Katze\tthe cat\n\tempty\n" + "ein Wort " * 9 + "\tone\n")
    more = f"[{{files: {long.name}}}]"
    assert main([str(tiny_config), "--data.train+", more, "--data.cleaning.max_words", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [" ".join(line.split()) for line in lines]
    assert rows[:2] == ["train.de train.en read 100 100.0 %", "kept 100 100.0 %"]
    assert rows[2].startswith("…") and rows[2].endswith("long.txt read 3 100.0 %")
    assert rows[3:6] == ["empty 1 33.3 %", "too_long 1 33.3 %", "kept 1 33.3 %"]
    assert rows[6:] == ["all corpora read 103 100.0 %", "empty 1 1.0 %", "too_long 1 1.0 %", "kept 101 98.1 %"]
    main([str(tiny_config)])
    assert "all corpora" not in capsys.readouterr().out  # of one corpus its own rows say all
