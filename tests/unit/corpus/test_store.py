"""The token store: what goes in comes out; a file that is not whole is an error."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.corpus.store import StoreWriter, TokenStore, check_manifest, create_store, open_store, schema_of, write_manifest
from mt.errors import UserError

ids = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=6)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
rows = st.lists(st.tuples(ids, ids, st.integers(0, 3), text, text), max_size=8)


def write(folder, chunks, *, with_text=True):
    with create_store(folder, with_text=with_text) as writer:
        for chunk in chunks:
            writer.write(*(list(column) for column in zip(*chunk)) if chunk else ([], [], [], [], []))
    return open_store(folder)


@settings(max_examples=40, deadline=None)
@given(st.lists(rows, max_size=4), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, chunks, with_text):
    store = write(tmp_path_factory.mktemp("store"), chunks, with_text=with_text)
    expected = [row for chunk in chunks for row in chunk]
    assert len(store) == len(expected)
    assert store.source_lengths.dtype == store.target_lengths.dtype == np.int32
    assert store.source_lengths.tolist() == [len(row[0]) for row in expected]
    assert store.target_lengths.tolist() == [len(row[1]) for row in expected]
    assert store.corpus.tolist() == [row[2] for row in expected]
    for index, (source, target, *_) in enumerate(expected):
        assert store.source(index).dtype == np.int32
        assert store.source(index).tolist() == source
        assert store.target(index).tolist() == target
    for start in range(len(expected) if with_text else 0):
        for stop in range(start, len(expected) + 1):
            assert store.texts("source", start, stop) == [row[3] for row in expected[start:stop]]
            assert store.texts("target", start, stop) == [row[4] for row in expected[start:stop]]


def test_ids_are_views_of_the_file(tmp_path):
    store = write(tmp_path, [[([5, 6], [7], 0, "a", "b")] * 3] * 2)
    for index in range(6):
        view = store.source(index)
        assert not view.flags.owndata and not view.flags.writeable


def test_an_index_out_of_range_is_refused(tmp_path):
    store = write(tmp_path, [[([5, 6], [7], 0, "a", "b")]])
    for index in (-1, 1):
        with pytest.raises(IndexError):
            store.source(index)


def test_counts_of_pieces_on_both_sides(tmp_path):
    store = write(tmp_path, [[([9], [1, 3], 0, "", ""), ([9], [1], 0, "", "")], [([9], [3, 3], 0, "", "")]])
    source, target = store.piece_counts(10, 5)
    assert source.tolist() == [0] * 9 + [3]
    assert target.tolist() == [0, 2, 0, 3, 0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:-10], "changed or damaged"),
        (lambda content: b"", "changed or damaged"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "changed or damaged"),
        (lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:], "changed or damaged"),
    ],
)
def test_a_damaged_file_is_an_error_that_says_what_to_delete(tmp_path, damage, says):
    write(tmp_path, [[([5, 6], [7], 0, "a", "b")] * 100])
    path = tmp_path / "pairs.arrow"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=says) as caught:
        open_store(tmp_path)
    assert str(path) in str(caught.value) and f"delete the folder {tmp_path}" in str(caught.value)


def test_a_missing_file_or_manifest_is_an_error(tmp_path):
    write(tmp_path, [[([5], [7], 0, "a", "b")]])
    manifest = tmp_path / "manifest.json"
    content = manifest.read_text()
    for broken in ("", "{}", '{"files": []}', content[:20], '{"files": {"pairs.arrow": 3}}'):
        manifest.write_text(broken)
        with pytest.raises(UserError, match=r"manifest.json: (not as expected|lists no files).*delete the folder"):
            open_store(tmp_path)
    manifest.write_text(content)
    (tmp_path / "pairs.arrow").unlink()
    with pytest.raises(UserError, match=r"pairs.arrow: cannot be read .*delete the folder"):
        open_store(tmp_path)
    manifest.unlink()
    with pytest.raises(UserError, match=r"manifest.json: cannot be read \(No such file.*\); delete the folder"):
        open_store(tmp_path)


def test_the_manifest_lists_every_file_of_a_folder(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "empty").write_bytes(b"")
    write_manifest(tmp_path)
    files = json.loads((tmp_path / "manifest.json").read_text())["files"]
    assert files == {name: xxhash.xxh3_128_hexdigest(content) for name, content in (("a", b"abc"), ("empty", b""))}
    check_manifest(tmp_path)
    (tmp_path / "a").write_bytes(b"abd")
    with pytest.raises(UserError, match="changed or damaged"):
        check_manifest(tmp_path)


def test_a_failed_write_leaves_no_manifest(tmp_path):
    with pytest.raises(RuntimeError), create_store(tmp_path, with_text=False) as writer:
        writer.write([[1]], [[2]], [0])
        raise RuntimeError
    assert not (tmp_path / "manifest.json").exists()


def test_a_store_in_a_nameless_file_outlives_it():
    with tempfile.TemporaryFile() as file:
        with StoreWriter(file, schema_of(with_text=False)) as writer:
            writer.write([[1, 2]], [[3]], np.array([0]))
        file.flush()
        store = TokenStore(file)
    assert store.source(0).tolist() == [1, 2]
