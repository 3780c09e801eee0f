"""What a job has done is kept between kills, bit for bit, and nothing damaged is taken for it."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from workflow_lib.core.errors import BusyError, UserError
from workflow_lib.core.kept import Kept, key_of


@given(st.dictionaries(st.sampled_from("abc"), arrays(np.float64, array_shapes(max_side=3)), max_size=3))
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, values) -> None:
    kept = Kept(tmp_path_factory.mktemp("kept") / "a.sqlite", "numbers")
    first = kept.arrays("key", lambda: values)
    again = kept.arrays("key", lambda: pytest.fail("was kept"))
    assert first.keys() == again.keys() == values.keys()
    for name, value in values.items():
        assert first[name].tobytes() == again[name].tobytes() == value.tobytes()


def test_the_first_value_of_a_key_stays(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "a.sqlite", "numbers")
    kept.put_many({"a": b"1"})
    kept.put_many({"a": b"2", "b": b"3"})
    assert kept.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"3"}


def test_a_damaged_file_or_value_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    kept = Kept(path, "numbers")
    kept.put_many({"a": b"1"})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE kept SET value = ?", (b"2",))
    with pytest.raises(UserError, match=r"numbers kept in .*a.sqlite .*value of a is damaged.*delete"):
        kept.get_many(["a"])
    kept.put_many({"b": b"no arrays"})
    with pytest.raises(UserError, match="delete the file"):
        kept.arrays("b", lambda: {})
    path.write_bytes(b"no database" * 100)
    with pytest.raises(UserError, match="delete the file"):
        Kept(path, "numbers")


def _refused(kept: Kept) -> UserError:
    with pytest.raises(UserError) as caught:
        kept.put_many({"b": b"2" * 50_000})
    return caught.value


def test_only_damage_advises_to_delete_days_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, a lock and missing rights leave the file whole."""
    path = tmp_path / "a.sqlite"
    kept = Kept(path, "numbers")
    kept.put_many({"a": b"1"})
    connect = sqlite3.connect

    def full(*args, **kwargs) -> sqlite3.Connection:
        connection = connect(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 3")  # SQLite answers as on a full disk
        return connection

    def read_only(place: Path, **kwargs) -> sqlite3.Connection:
        return connect(f"file:{place}?mode=ro", uri=True, **kwargs)

    errors = []
    for changed, words in ((full, "the disk is full"), (read_only, "cannot write .*readonly")):
        with monkeypatch.context() as patch:
            patch.setattr(sqlite3, "connect", changed)
            errors.append(_refused(kept))
        assert re.search(words, str(errors[-1]))
    monkeypatch.setattr("workflow_lib.core.kept.WAIT", 0.01)
    with closing(connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        errors.append(_refused(kept))
    assert isinstance(errors[-1], BusyError)
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*unable to open") as caught:
        Kept(tmp_path / "folder.sqlite", "numbers")
    for error in (*errors, caught.value):
        assert "delete" not in str(error) and str(tmp_path) in str(error)
    assert kept.get_many(["a", "b"]) == {"a": b"1"}


def test_a_file_of_others_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE kept (other TEXT)")
    with pytest.raises(UserError, match=r"numbers kept in .*a\.sqlite .*no such column"):
        Kept(path, "numbers").get_many(["a"])


def test_keys_name_everything() -> None:
    value = {"a": np.array([1.0, 2.0]), "b": "x"}
    assert key_of(value, 1) == key_of({"b": "x", "a": [1.0, 2.0]}, 1)
    others = [key_of(value, 2), key_of(1, value), key_of(value), key_of({"a": [1.0, 2.5], "b": "x"}, 1)]
    assert len({key_of(value, 1), *others}) == 5
