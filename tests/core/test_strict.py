"""YAML and JSON: a value means what it looks like, or is refused in one line, in bounded time and space."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, to_json
from workflow_lib.core.strict import DEEPEST, YAML_BYTES, parse_json, parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("No", "No"),  # nobelium, for one
        ("true", True),
        ("010", 10),
        ("0o10", 8),
        ("1e-3", 1e-3),
        ("3.0e-3", 3e-3),
        ("1:30", "1:30"),
        ("~", None),
        ("'5'", "5"),
    ],
)
def test_words_and_numbers_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"a: {text}")["a"]
    assert read == value
    assert type(read) is type(value)


BILLIONS = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{f'*a{i}, ' * 10}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", 'line 3: found duplicate key "a"'),
        ("a: {b: 1, b: 1}", "duplicate key"),
        ("a: .inf", "a: inf is not a finite number"),
        ("a: [{b: .nan}]", "a[0].b: nan is not a finite number"),
        ("a: 1e999", "not a finite number"),
        ("a: 2026-11-28", "is a date; quote it"),
        ("a: !!binary aGk=", "is a bytes"),
        ("a: !!set {b}", "is a set"),
        ("a: !!python/object:os.system {}", "constructor"),
        ("1: 2", "a key is a word, got 1"),
        ("? [1]\n: 2", "a key is a word"),
        ("%YAML 1.1\n---\na: no", "directives are not read"),
        ("a: 1\n--- \nb: 2", "another document"),
        (f"a: {'9' * 5000}", "5000 digits"),
        ("[" * 5000, f"more than {DEEPEST} levels deep"),
        ("a: " + "[" * 60 + "]" * 60, f"more than {DEEPEST} levels deep"),
        ("a: &a [*a]", f"more than {DEEPEST} levels deep"),
        (BILLIONS, "aliases followed"),
        ("a: " + "x" * YAML_BYTES, "longer than"),
        ('a: "\\ud800"', "not text in UTF-8"),
        ("a: \x00", "not allowed"),
        ("a: [1", "line 1: expected"),
    ],
)
def test_yaml_that_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_yaml(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": NaN}', "a: nan is not a finite number"),
        ('{"a": [1, -Infinity]}', "a[1]: -inf is not a finite number"),
        ('{"a": 1e999}', "not a finite number"),
        ("9" * 5000, "5000 digits"),
        ("[" * 100_000, "levels deep"),
        ("[" * 60 + "]" * 60, "levels deep"),
        ('{"a": ', "Expecting value"),
        ('"\\ud800"', "not text in UTF-8"),
    ],
)
def test_json_that_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as caught:
        read_json(tmp_path / "a.json")
    assert words in str(caught.value) and "a.json is not valid JSON" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    for path, words in [
        (tmp_path / "pipe", "is not a file"),
        (tmp_path, "is not a file"),
        (Path("/dev/zero"), "is not a file"),
        (tmp_path / "none", "does not exist"),
        (tmp_path / "latin", "not text in UTF-8"),
    ]:
        for read in (read_yaml, read_json):
            with pytest.raises(UserError, match=words):
                read(path)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abcxyz_", min_size=1, max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(PLAIN)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_again(value: object) -> None:
    assert parse_json(to_json(value)) == value
    # A JSON text is a YAML text of the same meaning (but for escaped pairs of surrogates).
    assert parse_yaml(json.dumps(value, ensure_ascii=False)) == value


@given(st.text(st.sampled_from("a:-[]{},&*!|>'\"#%@? \n\t0129.eo~<\x00\x85\ud800"), max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_gives_plain_values_or_one_line(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            value = parse(text)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            assert not isinstance(value, float) or math.isfinite(value)
