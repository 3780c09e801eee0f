"""Frames to learn from: displaced, strained, from dynamics, of other cathodes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from campaigns.naxfepo4_gpaw.other_structures import other_structures
from campaigns.naxfepo4_gpaw.states import DATA, LEVEL, again, deformation, olivine, relaxed_states, seeded
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs
from workflow_lib.dft.store import Store


def rattles(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Displaced atoms in the relaxed cell, and in a strained one."""
    for key, record in sorted(relaxed_states(store).items()):
        rng = seeded("rattles", key)
        base = np.array(record.frames[-1]["positions"])
        shifts = [rng.normal(0, sigma, base.shape) for sigma in (0.02, 0.03, 0.04)]
        yield again(
            record,
            name=f"rattle {key}",
            kind="rattle",
            task="series",
            series=[(base + shift).tolist() for shift in shifts],
        )
        strain = deformation(rng)
        strained = base @ strain
        yield again(
            record,
            name=f"strain {key}",
            kind="rattle",
            task="series",
            cell=(np.array(record.frames[-1]["cell"]) @ strain).tolist(),
            positions=strained.tolist(),
            series=[(strained + rng.normal(0, s, base.shape)).tolist() for s in (0.0, 0.03)],
        )


def rattle_relaxations(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Displaced atoms in a strained cell, relaxed until little is left of the displacement.

    Each step starts from the density of the one before, so a frame costs half of a rattled one.
    """
    others = [
        record
        for record in store.records()
        if record.calculation.name.startswith("relaxation ") and record.status == "done"
    ]
    relaxed = [*sorted(relaxed_states(store).items()), *((r.calculation.group, r) for r in others)]
    for key, record in relaxed:
        rng = seeded("rattle relaxations", key)
        base, strain = np.array(record.frames[-1]["positions"]), deformation(rng)
        yield again(
            record,
            name=f"rattle-relaxation {key}",
            kind="rattle-relaxation",
            task="relaxation",
            state_key=None,  # an arrangement has one relaxation in the store: that of the truth
            fmax=0.15,
            cell=(np.array(record.frames[-1]["cell"]) @ strain).tolist(),
            positions=(base @ strain + rng.normal(0, 0.05, base.shape)).tolist(),
        )


def dynamics(store: Store, model: Path | None) -> Iterator[Calculation]:
    """Snapshots of molecular dynamics at 300 K, 0.2 ps apart, driven by a charge-labelled model."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from workflow_lib.simulation.calculator import PotentialCalculator

    if model is None:
        raise UserError("dynamics needs --model-dir, a trained charge-labelled model")
    for key, record in sorted(relaxed_states(store).items()):
        rng = seeded("dynamics", key)
        atoms = record.calculation.atoms()
        atoms.positions = record.frames[-1]["positions"]
        atoms.set_array("oxidation_states", record.calculation.oxidation_states)
        atoms.calc = PotentialCalculator(model)
        MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
        run = Langevin(atoms, 1 * units.fs, temperature_K=300, friction=0.02 / units.fs, rng=rng)
        snapshots = []
        for _ in range(4):
            run.run(200)
            snapshots.append(atoms.get_positions().tolist())
        yield again(
            record,
            name=f"dynamics {key}",
            kind="dynamics",
            task="series",
            series=snapshots,
            provenance={"start": record.calculation.digest, "model": model.name, "temperature_k": 300},
        )


def dynamics_walks(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """The snapshots of dynamics.jsonl, reached from the relaxed atoms in steps.

    A state with Fe2+ is seldom held by a cold start on thermal atoms. Here each geometry starts
    from the density of the one before, a third of the way to the next snapshot.
    """
    relaxed = relaxed_states(store)
    for job in read_jobs(DATA / "dynamics.jsonl"):
        if not (job.oxidation_states == 2).any():
            continue  # FePO4 holds from a cold start
        assert job.series is not None
        corners = [np.array(relaxed[job.group].frames[-1]["positions"]), *job.series]
        walk = [a + (b - a) * part for a, b in pairwise(corners) for part in (1 / 3, 2 / 3, 1)]
        yield again(
            relaxed[job.group],
            name=f"dynamics walk {job.group}",
            kind="dynamics",
            task="series",
            series=[positions.tolist() for positions in walk],
            provenance=job.provenance,
        )


def chemistries(_store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Other cathodes: olivine NaMnPO4, NaCoPO4, NaNiPO4, maricite NaFePO4, a Na2FeSiO4.

    Cells and starts come from the CHGNet that its wheel ships, with the cell relaxed; then a short
    DFT relaxation and displaced atoms.
    """
    for name, atoms, formula_units in other_structures(olivine(), seeded("stuffed cristobalite")):
        rng = seeded("chemistries", name)
        states = np.where(np.isin(atoms.numbers, (25, 26, 27, 28)), 2, 0)
        common = {
            "group": name,
            "numbers": atoms.numbers,
            "cell": atoms.cell[:],
            "oxidation_states": states,
            "level": LEVEL,
            "formula_units": formula_units,
        }
        yield Calculation(
            name=f"relaxation {name}",
            kind="relaxation",
            task="relaxation",
            positions=atoms.positions,
            max_steps=25,
            **common,
        )
        shifts = [rng.normal(0, s, atoms.positions.shape) for s in np.repeat((0.02, 0.03, 0.04), 4)]
        series = atoms.positions + np.array(shifts)
        yield Calculation(
            name=f"rattle {name}",
            kind="rattle",
            task="series",
            positions=series[0],
            series=series,
            **common,
        )
        strain = deformation(rng)
        strained = atoms.positions @ strain
        shifts = [rng.normal(0, s, atoms.positions.shape) for s in (0.0, 0.02, 0.03, 0.02, 0.03, 0.04)]
        yield Calculation(
            name=f"strain {name}",
            kind="rattle",
            task="series",
            positions=strained,
            series=strained + np.array(shifts),
            **common | {"cell": atoms.cell[:] @ strain},
        )
