"""Error messages for mistakes in files that a user writes: where, what, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def short(value: object) -> str:
    """Return a value as Python writes it, cut to fit in a line."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."


def nearest(value: str, known: Iterable[str]) -> str:
    """Return a hint for an error message: the nearest known name, or all of them."""
    known = list(known)
    near = get_close_matches(str(value), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def check_distinct(names: Iterable[str], where: str) -> None:
    """Raise ValueError, for pydantic to report, if two things of one section have the same name."""
    seen = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{where}: the name {short(name)} is used twice; names must differ")
        seen.add(name)


def describe_errors(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Return all mistakes that pydantic found, one clause each: where, what, and what would be right."""
    clauses = []
    for item in error.errors():
        location = item["loc"]
        where = prefix
        for part in location:
            if part == "[key]":  # pydantic's mark of a key that is wrong; its name stands before it
                continue
            where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else part
        if item["type"] == "extra_forbidden":
            hint = nearest(str(location[-1]), _valid_keys(model, location[:-1]))
            clauses.append(f"{where}: unknown key{hint}")
        elif item["type"] == "missing":
            clauses.append(f"{where}: required but missing")
        elif item["type"] == "value_error":
            message = str(item["ctx"]["error"]) if "ctx" in item else item["msg"]
            clauses.append(f"{where}: {message}" if where else message)
        else:
            message = f"{item['msg'][0].lower()}{item['msg'][1:]}".replace("valid tuple", "list")
            given = list(item["input"]) if isinstance(item["input"], tuple) else item["input"]
            clauses.append(f"{where}: {message}, got {short(given)}")
    return "; ".join(clauses)


def _valid_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a location of the data, read from the JSON schema."""
    schema = model.model_json_schema()

    def resolve(node: dict) -> dict:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node

    node: dict = schema
    for part in location:
        for candidate in map(resolve, [node, *node.get("anyOf", [])]):
            if isinstance(part, int):
                ordered = candidate.get("prefixItems", [])
                child = candidate.get("items") or (ordered[part] if part < len(ordered) else None)
            else:
                child = candidate.get("properties", {}).get(part)
            if isinstance(child, dict):
                node = resolve(child)
                break
    return list(node.get("properties", {}))


def strictly[Model: BaseModel](model: type[Model], values: Mapping[str, Any]) -> Model:
    """Validate values as they are: no text for a number, no truth value or fraction for a count."""
    return model.model_validate(_frozen(values), strict=True)


def _frozen(value: Any) -> Any:
    """Return the value with tuples in place of lists, which strict validation would not accept for them."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value
