"""Any configuration, host file, table of sources or job file gives an answer or one line."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from changed_config import DEMO
from fuzz import WORDS, answer_or_line, edited, edits
from hypothesis import given
from hypothesis import strategies as st
from samples import HOST

from workflow_lib.config_files import load_config
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.sources.table import load_sources

ROOT = Path(__file__).parents[2]
HOSTED: dict[str, Any] = json.loads(HOST.read_text())
SHIPPED = sorted(path for path in (ROOT / "config").glob("*.yaml") if path.name != "sources.yaml")
NUMBERS = (
    st.integers(-3, 4)
    | st.sampled_from([99, 999, 10**6, 10**12, 2**63, -(10**30), 0.5, 1e-300, 1e300, -1.0, 5e-324])
    | st.floats(allow_nan=False, allow_infinity=False)
)
LEAVES = NUMBERS | st.none() | st.booleans() | st.text(max_size=6) | st.sampled_from(WORDS)
KEYS = st.sampled_from(["element", "Fe", "Na", "low", "name", "state", "label", "x y", "", "a.b", "0"])
VALUES = LEAVES | st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values within a document, but for its root."""
    inside: Any = ()
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
    found = [] if not place else [place]
    for key, item in inside:
        found += places(item, (*place, key))
    return found


@st.composite
def changed(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with one to three values replaced, doubled, moved elsewhere or removed."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        known = places(changed)
        if not known:
            break
        *parents, last = draw(st.sampled_from(known))
        node = changed
        for part in parents:
            node = node[part]
        match draw(st.sampled_from(["replace", "replace", "number", "copy", "remove", "double"])):
            case "replace":
                node[last] = draw(VALUES)
            case "number":
                node[last] = draw(NUMBERS)
            case "copy":
                other: Any = changed
                for part in draw(st.sampled_from(known)):
                    other = other[part]
                node[last] = copy.deepcopy(other)
            case "remove":
                del node[last]
            case "double" if isinstance(node, list):
                node.append(copy.deepcopy(node[last]))
    return changed


def use(path: Path) -> None:
    """Do with a configuration what the Snakefile and every command do with it at once."""
    config = load_config(path)
    models = list(config.trained())
    for model in models[:20]:
        config.hyperparameters(model.name)
        config.training_of(model.name)
    host = Host.load(config.host, config.redox)
    for cell in config.search.cells:
        assert all(0 < number < host.n_mobile(cell.repeat) for number in cell.occupations(host))
    # The jobs read what is resolved: it must be as valid, and the same.
    text = config.model_dump_json()
    resolved = path.with_name("config.json")
    resolved.write_text(text)
    assert load_config(resolved).model_dump_json() == text
    assert str(config.folder).isprintable()


def use_host(path: Path, rule: RedoxRule) -> None:
    """Build both ends and one arrangement between, and find the latter again."""
    host = Host.load(path, rule)
    unit = (1, 1, 1)
    numbers = host.compositions(unit)
    for number in {*numbers[:1], *numbers[-1:]}:
        arrangement = host.random(unit, number, charges=True, rng=np.random.default_rng(1))
        atoms = host.build(arrangement)
        assert np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell[:]).all()
        canonical = host.canonical(arrangement)
        assert host.parse(host.key(canonical)) == canonical


def on_file(use: Any, name: str, content: bytes, *more: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        answer_or_line(use, path, *more)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
@given(data=st.data())
def test_text_of_a_configuration(shipped: Path, data: st.DataObject) -> None:
    on_file(use, "c.yaml", edited(shipped.read_text(), data.draw(edits())))


@given(changed(DEMO))
def test_values_of_a_configuration(document: dict[str, Any]) -> None:
    on_file(use, "c.json", json.dumps(document).encode("utf-8", "surrogatepass"))


@given(changes=edits())
def test_text_of_a_host_file(rule: RedoxRule, changes: Any) -> None:
    on_file(use_host, "h.json", edited(HOST.read_text(), changes), rule)


@given(document=changed(HOSTED))
def test_values_of_a_host_file(rule: RedoxRule, document: dict[str, Any]) -> None:
    on_file(use_host, "h.json", json.dumps(document).encode("utf-8", "surrogatepass"), rule)


@given(changed({"redox": DEMO["redox"]}))
def test_a_redox_rule_with_the_shipped_host(document: dict[str, Any]) -> None:
    def both(path: Path) -> None:
        use_host(HOST, load_config(path).redox)

    on_file(both, "c.json", json.dumps(DEMO | document).encode("utf-8", "surrogatepass"))


@given(changed(yaml.safe_load((ROOT / "config/sources.yaml").read_text())))
def test_a_table_of_sources(document: dict[str, Any]) -> None:
    on_file(load_sources, "s.yaml", yaml.safe_dump(document).encode("utf-8", "surrogatepass"))


@given(
    changed(
        Calculation(
            **{"name": "oxide", "group": "FeO", "kind": "single", "task": "single", "level": EMBEDDED},
            numbers=np.array([26, 8]),
            positions=np.array([[0.0, 0, 0], [2.1, 0, 0]]),
            cell=np.eye(3) * 4.2,
            oxidation_states=np.array([2, 0]),
            formula_units=1,
        ).to_json()
    )
)
def test_a_job_file(document: dict[str, Any]) -> None:
    def read(path: Path) -> None:
        for calculation in read_jobs(path):
            calculation.check({"O": -2})

    on_file(read, "jobs.jsonl", json.dumps(document).encode("utf-8", "surrogatepass") + b"\n")
