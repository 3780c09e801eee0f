"""The truth: all charge-ordered states relaxed, other orbitals, orders on identical atoms, x = 2/3."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from ase import Atoms

from campaigns.naxfepo4_gpaw.states import DATA, LEVEL, again, lower_seeds, olivine, relaxed_states, seeded
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import realised_states
from workflow_lib.dft.store import Store
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.arrangement import Arrangement, StateKey
from workflow_lib.lattice.ewald import electrostatic_order

SEEDS = {"x050_s5": "ab", "x050_s6": "cc", "x075_s1": "aac"}
"""States whose stored path holds, at one Fe2+, an orbital other than the lowest of the estimate."""


def truth(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """All 16 states, relaxed to 0.05 eV/A; goes on from the paths of the first data set.

    The frames of those paths enter the log of a new calculation, marked ``imported``: the
    relaxation resumes from them as after an interruption.
    """
    host = olivine()
    frames = read_parquet(DATA / "frames.parquet")
    paths: dict[str, list[Frame]] = {}
    for frame in frames:
        if frame.source == "naxfepo4-gpaw" and frame.kind == "relaxation":
            paths.setdefault(frame.group, []).append(frame)
    for group, path in sorted(paths.items()):
        path.sort(key=lambda frame: frame.frame_id)
        states = _states(path[0])
        key = host.key(host.locate(frame_to_atoms(path[0]), states))
        calculation = Calculation(
            name=f"truth {group}",
            group=key,
            kind="relaxation",
            task="relaxation",
            numbers=path[0].numbers,
            positions=path[0].positions,
            cell=path[0].cell,
            oxidation_states=states,
            level=LEVEL,
            formula_units=4,
            state_key=key,
            orbital=SEEDS.get(group, "a"),
        )
        if store.get(calculation).status == "missing":
            with store.writing(calculation) as log:
                for frame in path:
                    _import(log, frame, calculation)
        yield calculation


def _states(frame: Frame) -> np.ndarray:
    states = np.zeros(len(frame), dtype=np.int64)
    iron = frame.numbers == 26
    assert frame.magmoms is not None
    states[iron] = np.where(frame.magmoms[iron] < 4.0, 2, 3)
    return states


def _import(log: object, frame: Frame, calculation: Calculation) -> None:
    assert frame.forces is not None and frame.magmoms is not None
    if (realised_states(calculation, frame.magmoms) != calculation.oxidation_states).any():
        return
    log.frame(  # type: ignore[attr-defined]
        {
            "positions": frame.positions.tolist(),
            "cell": frame.cell.tolist(),
            "energy": frame.energy,
            "forces": frame.forces.tolist(),
            "stress": None if frame.stress is None else frame.stress.tolist(),
            "magmoms": frame.magmoms.tolist(),
            "charges": None if frame.charges is None else frame.charges.tolist(),
            "states": calculation.oxidation_states.tolist(),
            "imported": frame.frame_id,
        }
    )


def orbitals(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Single points of the other two orbital seeds at each relaxed geometry."""
    for key, record in sorted(relaxed_states(store).items()):
        for orbital in "abc":
            if "2" in (StateKey.parse(key).states or "") and orbital != record.calculation.orbital:
                yield again(record, name=f"orbital {orbital} {key}", kind="orbital", orbital=orbital)


def lower(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Relaxations of the states for which the single point of another seed came out lower."""
    for ground, single in lower_seeds(store, relaxed_states(store), LEVEL):
        yield again(
            ground,
            name=f"lower {single.orbital} {single.group}",
            kind="relaxation",
            task="relaxation",
            orbital=single.orbital,
        )


def same_positions(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Two charge orders on identical atoms: half way between the relaxed positions of either.

    Half way because there each Fe that differs is as much Fe2+ as Fe3+ in its bonds. From a cold start
    one of the two mostly fails or collapses there; carried over from its own relaxed positions, each
    step started from the density of the one before, it stays. Orders close in energy come first. For
    testing only: trained on, they would contradict each other for a charge-blind model.
    """
    relaxed = relaxed_states(store)
    pairs = [
        (one, other)
        for one, other in combinations(sorted(relaxed), 2)
        if StateKey.parse(one).ion_key == StateKey.parse(other).ion_key
    ]
    ends = {key: record.frames[-1] for key, record in relaxed.items()}
    for pair in sorted(pairs, key=lambda pair: abs(ends[pair[0]]["energy"] - ends[pair[1]]["energy"])):
        one, other = (np.array(ends[key]["positions"]) for key in pair)
        path = [((1 - way) * one + way * other).tolist() for way in (0.0, 0.25, 0.5, 0.75, 1.0)]
        for (key, against), series in ((pair, path[:3]), (pair[::-1], path[:1:-1])):
            yield again(
                relaxed[key],
                name=f"same positions {key} half way to {against.rsplit(':', 1)[1]}",
                kind="same-positions",
                task="series",
                series=series,
            )


def two_thirds(_store: Store, model: Path | None) -> Iterator[Calculation]:
    """Arrangements at x = 2/3 in the 84-atom cell, relaxed by a charge-labelled model.

    Eight Na orders drawn at random with their electrostatically best charge order, and another charge
    order on the ions of the lowest.
    """
    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.simulation.relaxation import relax

    if model is None:
        raise UserError("two_thirds needs --model-dir, a trained charge-labelled model")
    host = olivine()
    rng = seeded("two thirds")
    repeat = (1, 3, 1)
    drawn: dict[str, Arrangement] = {}
    while len(drawn) < 8:
        ions = host.random(repeat, 8, charges=False, rng=rng)
        drawn.setdefault(host.key(ions), electrostatic_order(ions, host))
    network = TrainedModel.load(model)

    def lowest(candidates: list[Arrangement]) -> list[tuple[float, str, Atoms]]:
        starts = [host.build(candidate, polaron_distortion=0.06) for candidate in candidates]
        ends = relax(network, starts, fmax=0.08, max_steps=150, batch_size=4, optimiser="lbfgs")
        return sorted(
            (end.energy, host.key(candidate), end.atoms)
            for end, candidate in zip(ends, candidates, strict=True)
            if end.status == "converged"
        )

    first = lowest(list(drawn.values()))
    best = host.parse(first[0][1])
    others: list[Arrangement] = []
    while len(others) < 3:
        other = host.random(repeat, 8, charges=True, rng=rng)
        candidate = Arrangement(repeat, best.occupied, other.reduced)
        if host.key(candidate) != first[0][1]:
            others.append(candidate)
    for energy, key, atoms in (*first, lowest(others)[0]):
        yield Calculation(
            name=f"two thirds {key}",
            group=key,
            kind="supercell",
            task="single",
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell[:],
            oxidation_states=atoms.get_array("oxidation_states"),
            level=LEVEL,
            formula_units=12,
            state_key=key,
            provenance={"model_energy_ev": energy, "model": model.name},
        )
