"""Output that appears when it is whole and goes on after a kill, byte for byte as without one."""

from __future__ import annotations

import errno
import fcntl
import gzip
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mt.files.atomic
from mt.errors import UserError
from mt.files.output import Output, check_apart, check_writable, open_output

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


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "first").symlink_to("far/second")
    (tmp_path / "far" / "second").symlink_to("out")  # which is not there yet
    for _ in range(2):
        write(tmp_path / "first", RECORDS)
        assert (tmp_path / "first").is_symlink() and (tmp_path / "far" / "second").is_symlink()
        assert (tmp_path / "far" / "out").read_bytes() == b"".join(RECORDS)
        assert names(tmp_path) == ["far", "first"] and names(tmp_path / "far") == ["out", "second"]


def test_links_that_lead_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(UserError, match="its links lead in a circle"):
        write(tmp_path / "a", RECORDS)


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_a_descriptor_is_written_where_it_stands(tmp_path: Path, name: str) -> None:
    """As `> out` and `>> out` want it: opened by its name, the file would lose what is there."""
    with (tmp_path / "out").open("wb") as stream:
        stream.write(b"before\n")
        stream.flush()
        (tmp_path / "link").symlink_to(f"/dev/fd/{stream.fileno()}")
        path = tmp_path / name.format(stream.fileno())
        check_writable(path)
        write(path, RECORDS)
        os.write(stream.fileno(), b"after\n")
    assert (tmp_path / "out").read_bytes() == b"before\n" + b"".join(RECORDS) + b"after\n"
    assert names(tmp_path) == ["link", "out"]
    with pytest.raises(OSError, match="No such file"):
        check_writable(Path(f"/dev/fd/{2**20}"))


def test_a_named_pipe_is_written_directly(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write(tmp_path / "pipe", RECORDS)
    assert os.read(reader, 1000) == b"".join(RECORDS) and names(tmp_path) == ["pipe"]
    os.close(reader)


@pytest.mark.parametrize("name", ["out", "out.gz"])
@pytest.mark.parametrize("facts", [FACTS, None], ids=["file", "standard input"])
def test_a_second_writer_is_refused_and_the_first_one_gets_its_file(
    tmp_path: Path, name: str, facts: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.files.atomic, "_LOCK_TRIES", 1)
    path = tmp_path / name
    (tmp_path / "link").symlink_to(path)
    with open_output(path, facts, window=3) as output:
        for number, record in enumerate(RECORDS):
            output.write(number, record)
            if number in (0, 4):
                for other in (path, tmp_path / "link"):
                    with pytest.raises(UserError, match="another process is writing it"):
                        write(other, RECORDS[:2], facts=facts, stop=1)
    text = path.read_bytes()
    assert (gzip.decompress(text) if name == "out.gz" else text) == b"".join(RECORDS)
    write(path, RECORDS[:2], facts=facts)  # and behind it the next one


def test_a_lock_that_is_soon_given_back_is_waited_for(tmp_path: Path) -> None:
    holder = os.open(tmp_path / "out.partial", os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)
    timer = threading.Timer(0.2, os.close, [holder])
    timer.start()
    write(tmp_path / "out", RECORDS)
    assert (tmp_path / "out").read_bytes() == b"".join(RECORDS)


def test_a_partial_file_that_got_its_name_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.partial").write_text("whole")
    flock = fcntl.flock

    def finished_meanwhile(stream: Any, how: int) -> None:
        flock(stream, how)
        if (tmp_path / "out.partial").exists() and not (tmp_path / "out").exists():
            (tmp_path / "out.partial").rename(tmp_path / "out")

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    with open_output(tmp_path / "out", None, window=3):
        assert (tmp_path / "out").read_text() == "whole"


def test_a_full_disk_is_told_with_the_name_that_was_asked_for() -> None:
    with pytest.raises(OSError) as raised:
        write(Path("/dev/full"), RECORDS)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "/dev/full")


def test_no_output_is_an_input_or_another_output(tmp_path: Path) -> None:
    read = tmp_path / "in"
    read.write_text("a")
    (tmp_path / "hard").hardlink_to(read)
    (tmp_path / "soft").symlink_to("in")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("in", "hard", "soft", "../" + tmp_path.name + "/in"):
        with pytest.raises(UserError, match="--output: .* is the same file as --input, .*in; give another name"):
            check_apart([("--input", read)], ("--output", tmp_path / name))
    for name in ("new", "dangling"):
        with pytest.raises(UserError, match="--flagged: .* is the same file as --output"):
            check_apart([("--input", read)], ("--output", tmp_path / "new"), ("--flagged", tmp_path / name))
    with read.open("a") as stream, pytest.raises(UserError, match="same file as --input"):
        check_apart([("--input", read)], ("standard output", Path(f"/dev/fd/{stream.fileno()}")))
    check_apart([("--input", Path("/dev/null"))], ("--output", Path("/dev/null")), ("--flagged", tmp_path / "new"))
