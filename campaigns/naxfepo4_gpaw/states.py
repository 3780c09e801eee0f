"""What all parts of the campaign start from: the relaxed states and their level."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from campaigns.naxfepo4_gpaw.truth import lowest_relaxations
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Record, Store
from workflow_lib.lattice.arrangement import UNIT, StateKey
from workflow_lib.lattice.host import Host

ROOT = Path(__file__).parents[2]

DATA = ROOT / "resources" / "naxfepo4-gpaw"

HOST = ROOT / "resources" / "hosts" / "olivine-nafepo4.json"

LEVEL = Level(cutoff=500.0, kpoints=(1, 1, 1))
"""The level the campaign began with, converged for charge orders of one cell alone."""

METALS = {"Na": "sodium", "Li": "lithium"}

NOISE_EV = 3e-3
"""What two starts of one state may differ by, eV per cell: 2.4 meV where the density grids differed."""

RICH, POOR = "1x1x1:Na1111:Fe2222", "1x1x1:Na0000:Fe3333"


def olivine() -> Host:
    """The host of the campaign, with the redox rule of the demo."""
    from workflow_lib.config_files import load_config

    return Host.load(HOST, load_config(ROOT / "config" / "config.yaml").redox)


def seeded(*names: str) -> np.random.Generator:
    """A generator whose seed are names: the same part and state draw the same numbers."""
    return np.random.default_rng(zlib.crc32("|".join(names).encode()))


def relaxed_states(store: Store, level: Level = LEVEL) -> dict[str, Record]:
    """The lowest finished relaxation of each state of the small cell at a level."""
    at_level = (record for record in store.records() if record.calculation.level == level)
    return {
        key: record
        for key, record in lowest_relaxations(at_level).items()
        if record.status == "done" and StateKey.parse(key).repeat == UNIT
    }


def again(record: Record, **changes: object) -> Calculation:
    """The calculation of a record at its last geometry, with changes."""
    last = record.frames[-1]
    content = record.calculation.to_json()
    content |= {"positions": last["positions"], "cell": last["cell"], "task": "single"}
    content |= {"provenance": {"start": record.calculation.digest}}
    level = changes.pop("level", record.calculation.level)
    assert isinstance(level, Level)
    return Calculation.from_json(content | {"level": level.model_dump()} | changes)


def bcc_metal(symbol: str, lattice: float, mesh: int, level: Level) -> Calculation:
    """Return the single point of a bcc alkali metal: lattice constant (A), k-points along each axis."""
    from ase.build import bulk

    atoms = bulk(symbol, "bcc", a=lattice)
    return Calculation(
        name=f"{METALS[symbol]} {lattice} A {level.cutoff:g} eV {mesh}x{mesh}x{mesh}",
        group=symbol,
        kind="sodium",
        task="single",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=np.zeros(1, dtype=np.int64),
        level=level.model_copy(update={"kpoints": (mesh, mesh, mesh), "shifted": False}),
        formula_units=1,
        unsteered=True,
        charges=False,
    )


def lower_seeds(
    store: Store, relaxed: Mapping[str, Record], level: Level
) -> Iterator[tuple[Record, Calculation]]:
    """Yield each relaxed state above a single point of another orbital seed, and the lowest such one.

    Others that are lower too are judged against its relaxation, once that is done: seeds often turn into
    one orbital.
    """
    lowest: dict[str, Record] = {}
    for record in store.records():
        single = record.calculation
        if single.kind == "orbital" and record.status == "done" and single.level == level:
            lowest[single.group] = min(
                lowest.get(single.group, record), record, key=lambda r: r.frames[-1]["energy"]
            )
    for group, record in sorted(lowest.items()):
        ground = relaxed[group]
        if record.frames[-1]["energy"] < ground.frames[-1]["energy"] - NOISE_EV:
            yield ground, record.calculation
