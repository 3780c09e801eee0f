"""Read YAML and JSON so that every value means what it looks like, or is rejected.

YAML is read by the rules of version 1.2: ``no`` and ``on`` are words, ``010`` is ten. A key given
twice, numbers that are not finite, dates, tags, and documents that are deeply nested or that grow
without bound when their aliases are followed are errors, always a ValueError of one line.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from workflow_lib.core.errors import UserError, printable
from workflow_lib.core.validation import short

YAML_BYTES = 256 * 1024
"""Files written by hand are far smaller; the parser needs some seconds for this size."""
JSON_BYTES = 1024**3
DEEPEST = 50
MOST_VALUES = 100_000
"""In a YAML document with its aliases followed: a few lines of aliases can stand for billions."""


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML document; ValueError says what is wrong with it, and where."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(text) > YAML_BYTES:
        raise ValueError(f"longer than {YAML_BYTES} characters")
    if directive := re.search(r"^%.*", text, re.MULTILINE):
        raise ValueError(f"directives are not read, found {short(directive[0])}")
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(_yaml_mistake(error)) from error
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels deep") from None
    except Exception as error:  # the parser raises many kinds of errors on text that is not YAML
        raise ValueError(printable(str(error)) or type(error).__name__) from error
    check_plain(value)
    return value


def parse_json(text: str, most: int | None = None) -> Any:
    """Return the value of a JSON text of at most ``most`` values; ValueError says what is wrong with it."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels deep") from None
    check_plain(value, most)
    return value


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file; raise UserError if it cannot be read or breaks a rule."""
    text = read_text(path, YAML_BYTES)
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error


def read_text(path: Path, most_bytes: int) -> str:
    """Return the text of a regular file; raise UserError if it is no file, too large or not UTF-8."""
    try:
        if not path.is_file():  # reading a pipe would block, reading a device would never end
            what = "is not a file" if path.exists() else "does not exist"
            raise UserError(f"{path} {what}; check the path")
        if (size := path.stat().st_size) > most_bytes:
            raise UserError(f"{path} has {size} bytes; {most_bytes} are the most that is read")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason} at byte {error.start})") from error
    except ValueError as error:  # a NUL in the path
        raise UserError(f"{short(str(path))} is no path: {error}") from error


def _yaml_mistake(error: Exception) -> str:
    """Return the parser's message in one line; it writes several, with a drawing of the place."""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    mark = getattr(error, "problem_mark", None)
    return printable(f"line {mark.line + 1}: {problem}" if mark else problem)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"found duplicate key {short(twice)}")
    return found


def check_plain(value: Any, most: int | None = MOST_VALUES) -> None:
    """Raise ValueError, naming the place, for values that a configuration cannot hold.

    Allowed are texts, finite numbers, true, false, null, and lists and mappings of these, nested at
    most ``DEEPEST`` levels deep and, if ``most`` is given, at most that many values.
    """
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(value, ())]
    count = 0
    while waiting:
        item, place = waiting.pop()
        count += 1
        if most is not None and count > most:
            raise ValueError(f"more than {most} values, aliases followed")
        if len(place) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels deep")
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise ValueError(f"{_named(place)}a key is a word, got {short(key)}; quote it")
                waiting += [(key, place), (item[key], (*place, key))]
        elif isinstance(item, list | tuple):
            waiting += [(child, (*place, index)) for index, child in enumerate(item)]
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise ValueError(f"{_named(place)}{item!r} is not a finite number")
        elif isinstance(item, str):
            if any("\ud800" <= letter <= "\udfff" for letter in item):
                raise ValueError(f"{_named(place)}{short(item)} is not text in UTF-8")
        elif not (item is None or isinstance(item, int)):  # bool is an int
            raise ValueError(f"{_named(place)}{short(item)} is a {type(item).__name__}; quote it")


def _named(place: tuple[str | int, ...]) -> str:
    """Return a place as configuration errors name it, ``models[0].name``, with a colon."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"{text}: " if text else ""
