"""Configuration files: read, merge and check them; refuse keys of earlier versions by their new name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from workflow_lib.config import Config, Studies
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.core.strict import check_plain, read_yaml
from workflow_lib.core.validation import describe_errors, strictly

RENAMED = {
    "exam": "charge_order",
    "exam.breathing": "charge_order.polaron_distortion",
    "charge_order.breathing": "charge_order.polaron_distortion",
    "dft.breathing": "dft.polaron_distortion",
    **{f"embedding.{name}": f"charge_order.{name}" for name in ("fmax", "max_steps", "polaron_distortion")},
    "embedding.seed": "seed, as for every other random choice outside training,",
    "sampling": "search",
    "thermodynamics.mobile_energy_ev": "thermodynamics.metals, one entry for an element and a level,",
}
"""Keys of earlier versions and what they are called now."""
MOVED = {"benchmark.yaml": "study.yaml"}
"""Files of config/ in earlier versions and what they are called now."""


def _old_names(raw: Mapping[str, Any]) -> list[str]:
    """Return one clause for each key of an earlier version, with its new name."""
    found = []
    for old, new in RENAMED.items():
        node: Any = raw
        for part in old.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None:
            found.append(f"{old}: is called {new} now")
    return found


COMPARISON = ("host", "redox", "dataset", "models", "training")
"""Sections of a run that trains; a run with none of them has studies alone."""


def validate_studies(raw: Mapping[str, Any], where: str) -> Studies:
    """Check a configuration's values; raise UserError naming key and remedy.

    The result is a :class:`Config` unless the file describes studies alone.
    """
    alone = not any(key in raw for key in COMPARISON) and any(
        raw.get(key) is not None for key in ("charge_inference", "dynamics")
    )
    kind = Studies if alone else Config
    try:
        check_plain(raw)
        if old := _old_names(raw):
            raise ValueError("; ".join(old))
        return strictly(kind, raw)
    except ValidationError as error:
        raise UserError(f"{where}: {describe_errors(error, kind)}") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def validate_config(raw: Mapping[str, Any], where: str) -> Config:
    """Check the configuration of a run that trains; UserError also for one that has studies alone."""
    found = validate_studies(raw, where)
    if not isinstance(found, Config):
        raise UserError(
            f"{where} has studies alone; this command needs a run that trains ({', '.join(COMPARISON)})"
        )
    return found


def load_studies(*paths: str | Path, overrides: Mapping[str, Any] | None = None) -> Studies:
    """Read and check configuration files as :func:`load_config` does, of runs with studies alone too."""
    return validate_studies(_read(paths, overrides), ", ".join(map(str, paths)))


def load_config(*paths: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read and check configuration files (YAML or JSON); raise UserError naming key and remedy.

    If several are given, a later one replaces single keys of an earlier one, as do ``overrides``:
    Snakemake's rule for ``--configfile`` and ``--config``.
    """
    return validate_config(_read(paths, overrides), ", ".join(map(str, paths)))


def _read(paths: Sequence[str | Path], overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the values of configuration files, merged; UserError for one that cannot be read."""
    merged: dict[str, Any] = {}
    for path in map(Path, paths):
        if path.name in MOVED and not path.exists():
            raise UserError(f"{path} does not exist; it is called {path.with_name(MOVED[path.name])} now")
        if not path.exists():
            raise UserError(f"{path} does not exist; see config/ for examples")
        raw = read_json(path) if path.suffix == ".json" else read_yaml(path)
        if not isinstance(raw, dict):
            raise UserError(f"{path} must hold keys and values; see config/config.yaml")
        _merge(merged, raw)
    _merge(merged, overrides or {})
    return merged


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration, of either kind of run."""
    return TypeAdapter(Config | Studies).json_schema()


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Replace the values that ``values`` names, section by section."""
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
