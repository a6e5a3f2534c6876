"""Output that appears when it is whole and goes on after a kill, byte for byte as without one."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.errors import UserError
from mt.files.output import Output, check_writable, open_output

FACTS = {"model": "m", "options": {"beam": 5, "window": 3}}
RECORDS = [f"record {number}\n".encode() for number in range(8)]
NUMBERED = [b"".join(f"{number} ||| {rank}\n".encode() for rank in range(1 + number % 3)) for number in range(8)]


def write(path: Path, records: list[bytes], stop: int | None = None, **options: Any) -> int:
    """Writes all records, or fails before record `stop`; returns how many an earlier call had left."""
    with open_output(path, options.pop("facts", FACTS), window=3, **options) as output:
        for number in range(output.kept, len(records)):
            if number == stop:
                raise RuntimeError("stopped")
            output.write(number, records[number])
        return output.kept


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["out", "out.gz"])
@pytest.mark.parametrize("records", [RECORDS, NUMBERED], ids=["plain", "numbered"])
def test_goes_on_behind_the_last_whole_window(tmp_path: Path, name: str, records: list[bytes]) -> None:
    path, whole, numbered = tmp_path / name, tmp_path / f"whole-{name}", records is NUMBERED
    write(whole, records, numbered=numbered)
    for stop in range(1, len(records)):
        with pytest.raises(RuntimeError, match="stopped"):
            write(path, records, stop, numbered=numbered)
        partial = path.with_name(name + ".partial")
        assert not path.exists()
        if not partial.exists():  # of a gzip file, whose first window was not whole
            assert name == "out.gz" and stop < 3
            continue
        assert whole.read_bytes().startswith(partial.read_bytes())
        kept = write(path, records, numbered=numbered)
        # A plain numbered file does not tell that its last record is whole.
        assert kept == (stop - 1 if numbered and name == "out" else stop) // 3 * 3
        assert path.read_bytes() == whole.read_bytes()
        path.unlink()
    text = whole.read_bytes()
    assert (gzip.decompress(text) if name == "out.gz" else text) == b"".join(records)


@given(data=st.data())
def test_goes_on_from_a_file_cut_anywhere(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    name = data.draw(st.sampled_from(["out", "out.gz"]))
    numbered = data.draw(st.booleans())
    records = NUMBERED if numbered else RECORDS
    path = folder / name
    write(path, records, numbered=numbered)
    whole = path.read_bytes()
    path.rename(folder / f"{name}.partial")
    (folder / f"{name}.partial").write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    (folder / f"{name}.partial.json").write_text(json.dumps(FACTS))
    write(path, records, numbered=numbered)
    assert path.read_bytes() == whole and names(folder) == [name]


def test_nothing_stays_behind_a_torn_record_that_is_longer_than_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "out"
    (tmp_path / "out.partial").write_bytes(b"".join(RECORDS[:7]) + b"torn " * 100)
    (tmp_path / "out.partial.json").write_text(json.dumps(FACTS))
    assert write(path, RECORDS) == 6
    assert path.read_bytes() == b"".join(RECORDS)


@pytest.mark.parametrize("name", ["out", "out.gz"])
def test_a_last_window_that_is_not_whole_is_written_again(tmp_path: Path, name: str) -> None:
    """As a kill after the last record, before the file has its name, leaves it."""
    path = tmp_path / name
    write(path, RECORDS)
    whole = path.read_bytes()
    path.rename(tmp_path / f"{name}.partial")
    (tmp_path / f"{name}.partial.json").write_text(json.dumps(FACTS))
    assert write(path, RECORDS) == 6
    assert path.read_bytes() == whole


def test_another_fingerprint_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped"):
        write(path, RECORDS, 5)
    before = (tmp_path / "out.partial").read_bytes()
    with pytest.raises(UserError, match=r"out\.partial: was begun with another options \(beam 5, now 1\); run it as"):
        write(path, RECORDS, facts={"model": "m", "options": {"beam": 1, "window": 3}})
    with pytest.raises(UserError, match="another model; .*remove"):
        write(path, RECORDS, facts={**FACTS, "model": "n"})
    with pytest.raises(UserError, match="another model"):
        write(path, RECORDS, facts=None)  # standard input
    assert (tmp_path / "out.partial").read_bytes() == before
    (tmp_path / "out.partial").unlink()
    assert write(path, RECORDS, facts=None) == 0 and path.read_bytes() == b"".join(RECORDS)


def test_what_is_left_without_a_fingerprint_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped"):
        write(path, RECORDS, 5, facts=None)
    assert names(tmp_path) == ["out.partial"]
    assert write(path, RECORDS) == 0
    assert path.read_bytes() == b"".join(RECORDS) and names(tmp_path) == ["out"]


def test_a_failure_before_the_first_record_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    with pytest.raises(RuntimeError, match="stopped"):
        write(tmp_path / "out", RECORDS, 0)
    assert names(tmp_path) == ["out"] and (tmp_path / "out").read_text() == "before"


def test_an_interruption_says_that_it_goes_on(tmp_path: Path) -> None:
    def interrupted(output: Output) -> None:
        output.write(0, b"a\n")
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt, match=r"out\.partial keeps what is done"),
        open_output(tmp_path / "out", FACTS, window=3) as output,
    ):
        interrupted(output)


def test_standard_output_is_written_record_by_record(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_output(None, None, window=3) as output:
        assert output.kept == 0
        for number, record in enumerate(RECORDS):
            output.write(number, record)
            assert capfdbinary.readouterr().out == record


def test_places_that_cannot_be_written_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        check_writable(tmp_path / "no" / "out")
    check_writable(tmp_path / "out")
    assert names(tmp_path) == []
