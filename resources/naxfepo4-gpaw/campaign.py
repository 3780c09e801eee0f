"""The DFT campaign behind frames.parquet: writes the job files of its parts.

``campaign.py PART --store DIR --out jobs.jsonl`` lists the calculations of one part;
``python -m workflow_lib dft-run --jobs jobs.jsonl --store DIR`` computes them. Parts that start from
relaxed states read them from the store, so ``truth`` comes first. Random displacements take their
seed from the part and the state: the same command writes the same jobs.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from other_structures import other_structures

from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import realised_states
from workflow_lib.dft.level import Level
from workflow_lib.dft.run import write_jobs
from workflow_lib.dft.store import Record, Store
from workflow_lib.dft.truth import lowest_relaxations
from workflow_lib.errors import UserError
from workflow_lib.frames import Frame, frame_to_atoms, read_parquet
from workflow_lib.host import Host

HERE = Path(__file__).parent
HOST = HERE.parent / "hosts" / "olivine-nafepo4.json"
LEVEL = Level()
RICH, POOR = "1x1x1:Na1111:Fe2222", "1x1x1:Na0000:Fe3333"
CUTOFFS = (500, 600, 700, 800, 900)
MESHES = ((1, 3, 1), (1, 2, 2), (2, 2, 2))


def _rng(*names: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32("|".join(names).encode()))


def _relaxed(store: Store) -> dict[str, Record]:
    """The lowest finished relaxation of each state of the small cell at the level of the campaign."""
    at_level = (record for record in store.records() if record.calculation.level == LEVEL)
    return {
        key: record
        for key, record in lowest_relaxations(at_level).items()
        if record.status == "done" and key.startswith("1x1x1:")
    }


def _again(record: Record, **changes: object) -> Calculation:
    """The calculation of a record at its last geometry, with changes."""
    last = record.frames[-1]
    content = record.calculation.to_json()
    content |= {"positions": last["positions"], "cell": last["cell"], "task": "single"}
    content |= {"provenance": {"start": record.calculation.digest}}
    level = changes.pop("level", record.calculation.level)
    assert isinstance(level, Level)
    return Calculation.from_json(content | {"level": level.model_dump()} | changes)


def _states(frame: Frame) -> np.ndarray:
    states = np.zeros(len(frame), dtype=np.int64)
    iron = frame.numbers == 26
    assert frame.magmoms is not None
    states[iron] = np.where(frame.magmoms[iron] < 4.0, 2, 3)
    return states


SEEDS = {"x050_s5": "ab", "x050_s6": "cc", "x075_s1": "aac"}
"""States whose stored path holds, at one Fe2+, an orbital other than the lowest of the estimate."""


def truth(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """All 16 states, relaxed to 0.05 eV/A; goes on from the paths of the first data set.

    The frames of those paths enter the log of a new calculation, marked ``imported``: the
    relaxation resumes from them as after an interruption.
    """
    host = Host.load(HOST)
    frames = read_parquet(HERE / "frames.parquet")
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
    for key, record in sorted(_relaxed(store).items()):
        for orbital in "abc":
            if "2" in key.split(":")[2][2:] and orbital != record.calculation.orbital:
                yield _again(record, name=f"orbital {orbital} {key}", kind="orbital", orbital=orbital)


def lower(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Relaxations of the states for which the single point of another seed came out lower."""
    relaxed = _relaxed(store)
    for record in store.records():
        single = record.calculation
        if single.kind != "orbital" or record.status != "done" or single.level != LEVEL:
            continue
        ground = relaxed[single.group]
        if record.frames[-1]["energy"] < ground.frames[-1]["energy"] - NOISE_EV:
            yield _again(
                ground,
                name=f"lower {single.orbital} {single.group}",
                kind="relaxation",
                task="relaxation",
                orbital=single.orbital,
            )


NOISE_EV = 1e-3
"""What two starts of one state may differ by, eV per cell."""


def convergence(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Both ends against cut-off and k-mesh, and strained at two cut-offs for the stress."""
    relaxed = _relaxed(store)
    for key in (POOR, RICH):
        for cutoff in CUTOFFS:
            level = LEVEL.model_copy(update={"cutoff": float(cutoff)})
            name = f"convergence {key} {cutoff} eV"
            yield _again(relaxed[key], name=name, kind="convergence", level=level, charges=False)
    for key in (POOR, RICH):
        for mesh in MESHES:
            level = LEVEL.model_copy(update={"kpoints": mesh})
            name = f"convergence {key} {'x'.join(map(str, mesh))}"
            yield _again(relaxed[key], name=name, kind="convergence", level=level, charges=False)
    for cutoff in (500, 800):
        level = LEVEL.model_copy(update={"cutoff": float(cutoff)})
        for key in (POOR, RICH):
            for strain in (-0.01, 0.01):
                calculation = _again(relaxed[key], level=level)
                scale = 1 + strain
                yield _again(
                    relaxed[key],
                    name=f"strain {strain:+.2f} {key} {cutoff} eV",
                    kind="convergence",
                    level=level,
                    charges=False,
                    cell=(calculation.cell * scale).tolist(),
                    positions=(calculation.positions * scale).tolist(),
                )


def cells(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Positions and cell of both ends where the stress is converged, on a mesh of even density."""
    relaxed = _relaxed(store)
    level = LEVEL.model_copy(update={"cutoff": 800.0, "kpoints": (1, 2, 2)})
    for key in (POOR, RICH):
        yield _again(
            relaxed[key],
            name=f"cell {key}",
            kind="cell",
            task="cell",
            level=level,
            charges=False,
            max_steps=40,
        )


def sodium(_store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Bcc sodium: lattice constant and k-mesh at 500 eV, and every cut-off at the middle constant."""
    from ase.build import bulk

    wanted = [(lattice, 500, 16) for lattice in SODIUM_LATTICES]
    wanted += [(SODIUM_LATTICE, 500, mesh) for mesh in (8, 12, 20)]
    wanted += [(SODIUM_LATTICE, cutoff, 16) for cutoff in CUTOFFS[1:]]
    for lattice, cutoff, mesh in wanted:
        atoms = bulk("Na", "bcc", a=lattice)
        yield Calculation(
            name=f"sodium {lattice} A {cutoff} eV {mesh}x{mesh}x{mesh}",
            group="Na",
            kind="sodium",
            task="single",
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell[:],
            oxidation_states=np.zeros(1, dtype=np.int64),
            level=LEVEL.model_copy(update={"cutoff": float(cutoff), "kpoints": (mesh, mesh, mesh)}),
            formula_units=1,
            unsteered=True,
            charges=False,
        )


SODIUM_LATTICE = 4.2  # A
SODIUM_LATTICES = (4.1, 4.15, SODIUM_LATTICE, 4.25, 4.3)


def magnetism(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Antiferromagnetic single points of both ends, spins alternating along the Fe sites."""
    relaxed = _relaxed(store)
    level = LEVEL.model_copy(update={"magnetism": "antiferromagnetic"})
    for key in (POOR, RICH):
        yield _again(
            relaxed[key], name=f"antiferromagnetic {key}", kind="magnetism", level=level, charges=False
        )


def noise(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """The same states from a cold start: what an energy is worth. Both ends come with convergence."""
    relaxed = _relaxed(store)
    for key in NOISE:
        yield _again(relaxed[key], name=f"noise {key}", kind="noise")


def same_positions(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Several charge orders on identical atoms: the mean of the relaxed positions of one Na order.

    For testing only: trained on, they would contradict each other for a charge-blind model.
    """
    relaxed = _relaxed(store)
    for ions in sorted({":".join(key.split(":")[:2]) for key in relaxed}):
        keys = sorted(key for key in relaxed if key.startswith(f"{ions}:"))
        if len(keys) < 2:
            continue
        records = [relaxed[key] for key in keys]
        start = records[0].calculation.positions
        steps = [np.array(r.frames[-1]["positions"]) - r.calculation.positions for r in records]
        mean = start + np.mean(steps, axis=0)
        for key, record in zip(keys, records, strict=True):
            yield _again(
                record, name=f"same positions {key}", kind="same-positions", positions=mean.tolist()
            )


def rattles(store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Displaced atoms in the relaxed cell, and in a strained one."""
    for key, record in sorted(_relaxed(store).items()):
        rng = _rng("rattles", key)
        base = np.array(record.frames[-1]["positions"])
        shifts = [rng.normal(0, sigma, base.shape) for sigma in (0.02, 0.03, 0.04)]
        yield _again(
            record,
            name=f"rattle {key}",
            kind="rattle",
            task="series",
            series=[(base + shift).tolist() for shift in shifts],
        )
        strain = _strain(rng)
        strained = base @ strain
        yield _again(
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
    relaxed = [*sorted(_relaxed(store).items()), *((r.calculation.group, r) for r in others)]
    for key, record in relaxed:
        rng = _rng("rattle relaxations", key)
        base, strain = np.array(record.frames[-1]["positions"]), _strain(rng)
        yield _again(
            record,
            name=f"rattle-relaxation {key}",
            kind="rattle-relaxation",
            task="relaxation",
            state_key=None,  # an arrangement has one relaxation in the store: that of the truth
            fmax=0.15,
            cell=(np.array(record.frames[-1]["cell"]) @ strain).tolist(),
            positions=(base @ strain + rng.normal(0, 0.05, base.shape)).tolist(),
        )


def _strain(rng: np.random.Generator) -> np.ndarray:
    """Deformation [3, 3]: up to 2 % of isotropic strain, shears of 0.4 %."""
    shear = rng.normal(0, 0.006, (3, 3))
    return np.eye(3) * (1 + rng.uniform(-0.02, 0.02)) + (shear + shear.T) / 2


def dynamics(store: Store, model: Path | None) -> Iterator[Calculation]:
    """Snapshots of molecular dynamics at 300 K, 0.2 ps apart, driven by a charge-labelled model."""
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

    from workflow_lib.models.calculator import PotentialCalculator

    if model is None:
        raise UserError("dynamics needs --model-dir, a trained charge-labelled model")
    for key, record in sorted(_relaxed(store).items()):
        rng = _rng("dynamics", key)
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
        yield _again(
            record,
            name=f"dynamics {key}",
            kind="dynamics",
            task="series",
            series=snapshots,
            provenance={"start": record.calculation.digest, "model": model.name, "temperature_k": 300},
        )


def two_thirds(_store: Store, model: Path | None) -> Iterator[Calculation]:
    """Arrangements at x = 2/3 in the 84-atom cell, relaxed by a charge-labelled model.

    Of eight Na orders drawn with their electrostatically best charge order: the lowest after
    relaxation, the lowest on other ions, and another charge order on the ions of the first.
    """
    from workflow_lib.config import load_config
    from workflow_lib.dft.plan import electrostatic_order
    from workflow_lib.host import Arrangement
    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.relaxation import relax

    if model is None:
        raise UserError("two_thirds needs --model-dir, a trained charge-labelled model")
    host = Host.load(HOST)
    rule = load_config(HERE.parents[1] / "config" / "config.yaml").redox
    rng = _rng("two thirds")
    repeat = (1, 3, 1)
    drawn: dict[str, Arrangement] = {}
    while len(drawn) < 8:
        ions = host.random(repeat, 8, charges=False, rng=rng)
        drawn.setdefault(host.key(ions), electrostatic_order(ions, host, rule))
    network = TrainedModel.load(model)

    def lowest(candidates: list[Arrangement]) -> list[tuple[float, str, Atoms]]:
        starts = [host.build(candidate, breathing=0.06) for candidate in candidates]
        ends = relax(network, starts, fmax=0.08, max_steps=150, batch_size=4, optimiser="lbfgs")
        return sorted(
            (end.energy, host.key(candidate), end.atoms)
            for end, candidate in zip(ends, candidates, strict=True)
            if end.status == "converged"
        )

    first = lowest(list(drawn.values()))
    best = host.parse(first[0][1])
    others = []
    while len(others) < 3:
        other = host.random(repeat, 8, charges=True, rng=rng)
        candidate = Arrangement(repeat, best.occupied, other.reduced)
        if host.key(candidate) != first[0][1]:
            others.append(candidate)
    chosen = [first[0], first[1], lowest(others)[0]]
    for energy, key, atoms in chosen:
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


def chemistries(_store: Store, _model: Path | None) -> Iterator[Calculation]:
    """Other cathodes: olivine NaMnPO4, NaCoPO4, NaNiPO4, maricite NaFePO4, a Na2FeSiO4.

    Cells and starts come from the CHGNet that its wheel ships, with the cell relaxed; then a short
    DFT relaxation and displaced atoms.
    """
    for name, atoms, formula_units in other_structures(Host.load(HOST), _rng("stuffed cristobalite")):
        rng = _rng("chemistries", name)
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
        strain = _strain(rng)
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


NOISE = ("1x1x1:Na1000:Fe2333", "1x1x1:Na1001:Fe2323", "1x1x1:Na1110:Fe2223")

PARTS: dict[str, Callable[[Store, Path | None], Iterator[Calculation]]] = {
    part.__name__: part
    for part in (
        truth,
        orbitals,
        lower,
        convergence,
        cells,
        sodium,
        magnetism,
        noise,
        same_positions,
        rattles,
        rattle_relaxations,
        dynamics,
        two_thirds,
        chemistries,
    )
}


def main() -> int:
    """Write the job file of one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model-dir", type=Path, help="for dynamics and two_thirds")
    options = parser.parse_args()
    try:
        calculations = list(PARTS[options.part](Store(options.store), options.model_dir))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{write_jobs(calculations, options.out)} calculations in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
