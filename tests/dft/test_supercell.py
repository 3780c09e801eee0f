"""Formation energies of larger cells: against ends at the folded mesh, and pending without them."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms

from campaigns.naxfepo4_gpaw.level_parts import CHOSEN
from campaigns.naxfepo4_gpaw.relaxation_estimate import SOFTEST, harmonic_gain
from campaigns.naxfepo4_gpaw.states import POOR, RICH, olivine
from campaigns.naxfepo4_gpaw.supercell import known_gains, supercell_table
from campaigns.naxfepo4_gpaw.supercell_parts import JOBS, cell_supercells
from campaigns.naxfepo4_gpaw.supercell_starts import ARRANGEMENTS, with_another
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import read_jobs
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store

EMPTY, FULL = "1x1x1:Na0:Fe3", "1x1x1:Na1:Fe2"


def single(group, states, *, mesh=(1, 1, 1), kind="convergence", shift=0.0) -> Calculation:
    n = len(states)
    return Calculation(
        name=f"{kind} {group}",
        group=group,
        kind=kind,
        task="single",
        numbers=np.full(n, 26),
        positions=np.array([[2.5 * site + shift, 0, 0] for site in range(n)]),
        cell=np.diag([2.5 * n, 4, 4]),
        oxidation_states=np.array(states),
        level=Level(cutoff=500.0, kpoints=mesh),
        formula_units=n,
    )


def answer(store, calculation, energy=None, reason=None):
    with store.writing(calculation) as log:
        if energy is None:
            log.end("failed", reason)
            return
        forces = np.zeros((len(calculation), 3))
        forces[0] = 0.3, 0.0, 0.4
        log.frame({"energy": energy, "forces": forces.tolist(), "scf_iterations": 40})
        log.end("done")


@pytest.fixture
def store(tmp_path):
    """One Fe to a cell; three cells in a row with one Fe3+, which Gamma-point ends must not answer."""
    store = Store(tmp_path)
    large = single("1x3x1:Na110:Fe223", [2, 2, 3], kind="supercell")
    answer(store, large, -29.7)
    answer(store, replace(large, group="1x3x1:Na101:Fe232", positions=large.positions + 0.1), None, "lost")
    for mesh, offset in (((1, 1, 1), 5.0), ((1, 3, 1), 0.0), ((3, 1, 1), 7.0)):
        answer(store, single(EMPTY, [3], mesh=mesh), -9.0 + offset)
        answer(store, single(FULL, [2], mesh=mesh), -10.5 + offset)
    return store


def test_ends_are_those_of_the_folded_mesh(store):
    table = supercell_table(store.records(), empty=EMPTY, full=FULL).set_index("state")
    done = table.loc["1x3x1:Na110:Fe223"]
    # -29.7 / 3 against (-9.0 - 2 * 10.5) / 3, in meV per formula unit.
    assert done["formation_mev_fu"] == pytest.approx(100.0)
    assert (done["x"], done["fmax_ev_a"]) == pytest.approx((2 / 3, 0.5))
    failed = table.loc["1x3x1:Na101:Fe232"]
    assert (failed["status"], failed["reason"]) == ("failed", "lost")
    assert np.isnan(failed["energy_ev"]) and np.isnan(failed["formation_mev_fu"])


def test_what_relaxation_would_bring_is_added_per_formula_unit(store):
    table = supercell_table(store.records(), empty=EMPTY, full=FULL, gain=lambda *_: -0.06)
    done = table.set_index("state").loc["1x3x1:Na110:Fe223"]
    assert done["relaxed_estimate_mev_fu"] == pytest.approx(100.0 - 20.0)


def test_an_estimate_is_made_once_for_an_energy(store):
    def table(gain):
        return supercell_table(store.records(), empty=EMPTY, full=FULL, gain=gain)

    large = replace(
        single("1x3x1:Na110:Fe223", [2, 2, 3], kind="supercell", shift=0.2), provenance={"model": "painn"}
    )
    answer(store, large, -29.7)
    earlier = table(lambda *_: -0.06)
    # The geometry of no model is estimated again; that of the model is not, unless its energy is another.
    again = table(known_gains(earlier, lambda *_: -0.3)).set_index("geometry")["relaxed_estimate_mev_fu"]
    assert again["painn"] == pytest.approx(100.0 - 20.0)
    assert again[again.index.isna()].dropna().item() == pytest.approx(100.0 - 100.0)
    moved = known_gains(earlier, lambda *_: -0.3)(large, {"energy": -29.70001})
    assert moved == -0.3


def test_the_harmonic_gain_is_the_depth_of_the_minimum():
    rng = np.random.default_rng(5)
    root = rng.normal(size=(12, 12))
    hessian = root @ root.T + 2 * SOFTEST * np.eye(12)
    away = rng.normal(size=12)
    depth = 0.5 * away @ hessian @ away
    assert harmonic_gain(hessian, -hessian @ away) == pytest.approx(-depth, rel=1e-10)  # round-off


def test_shifting_the_crystal_gains_nothing_and_a_soft_direction_little():
    hessian = np.diag([0.0, 1e-9, -3.0, 10.0])
    assert harmonic_gain(hessian, np.array([0.0, 0.0, 0.0, 1.0])) == pytest.approx(-0.05)
    assert harmonic_gain(hessian, np.array([0.0, 1.0, 1.0, 0.0])) == pytest.approx(-1.0 / SOFTEST)


def test_without_an_end_at_that_mesh_there_is_no_formation_energy(store):
    store.path(single(FULL, [2], mesh=(1, 3, 1))).unlink()
    table = supercell_table(store.records(), empty=EMPTY, full=FULL).set_index("state")
    assert table.loc["1x3x1:Na110:Fe223", "energy_ev"] == -29.7
    assert table["formation_mev_fu"].isna().all()


def test_the_diagonal_order_has_ends_of_its_own_cell(store):
    answer(store, replace(single("diagonal", [2, 3, 2], kind="supercell"), name="diagonal"), -29.7)
    formation = "formation_mev_fu"
    table = supercell_table(store.records(), empty=EMPTY, full=FULL).set_index("state")
    assert np.isnan(table.loc["diagonal", formation]), "the ends of other cells are no answer"
    for group, states, energy in ((EMPTY, [3], -9.3), (FULL, [2], -10.8)):
        end = single(group, states, mesh=(1, 3, 1), shift=0.5)
        answer(store, replace(end, name=f"end for the diagonal order {group}"), energy)
    table = supercell_table(store.records(), empty=EMPTY, full=FULL).set_index("state")
    assert table.loc["diagonal", formation] == pytest.approx(400.0)
    assert table.loc["1x3x1:Na110:Fe223", formation] == pytest.approx(100.0)


def relaxed_end(store: Store, key: str) -> None:
    host = olivine()
    atoms = host.build(host.parse(key))
    calculation = Calculation(
        name=f"truth {key}",
        group=key,
        kind="relaxation",
        task="cell",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=atoms.get_array("oxidation_states"),
        level=CHOSEN,
        formula_units=4,
        state_key=key,
    )
    with store.writing(calculation) as log:
        frame = {"energy": -1.0, "positions": atoms.positions.tolist(), "cell": atoms.cell.tolist()}
        log.frame(frame | {"forces": np.zeros((len(atoms), 3)).tolist(), "scf_iterations": 9})
        log.end("done")


def test_every_larger_cell_has_its_ends_in_the_table(tmp_path):
    store = Store(tmp_path)
    relaxed_end(store, POOR)
    relaxed_end(store, RICH)
    calculations = list(cell_supercells(store))
    assert len({c.name for c in calculations}) == len(calculations)
    for calculation in calculations:
        if calculation.kind == "supercell-end":
            energy = -100.0 if calculation.group == POOR else -160.0
        else:
            # On the line between the ends, so that every formation energy is zero.
            units, low = calculation.formula_units, (calculation.oxidation_states == 2).sum()
            energy = units * -25.0 - low * 15.0
        answer(store, calculation, energy)
    table = supercell_table(store.records(), empty=POOR, full=RICH)
    assert list(table["formation_mev_fu"]) == pytest.approx([0.0] * len(table), abs=1e-6)
    assert set(table["state"]) == set(ARRANGEMENTS)
    assert table["geometry"].notna().all()


def test_another_geometry_of_an_arrangement_starts_from_the_density_of_the_first():
    first, last = (
        replace(
            single(key, [2, 2, 3], kind="supercell"), name=f"supercell {key}", provenance={"model": "a"}
        )
        for key in ("1x3x1:Na110:Fe223", "1x3x1:Na101:Fe232")
    )
    other = replace(first, positions=first.positions + 0.02, provenance={"model": "b"})
    jobs = with_another([first, last], other)
    assert [job.name for job in jobs] == [first.name, f"{first.name} by b", last.name]
    assert jobs[1].provenance == {"model": "b", "start": first.digest}
    assert jobs[1].digest != first.digest
    with pytest.raises(UserError, match=r"no 1x3x1:Na011:Fe322"):
        with_another(jobs, replace(other, group="1x3x1:Na011:Fe322"))


def test_the_larger_cells_are_the_arrangements_that_are_named():
    jobs = read_jobs(JOBS)
    assert list(dict.fromkeys(job.group for job in jobs)) == list(ARRANGEMENTS)
    host = olivine()
    for job in jobs:
        ions = int((job.numbers == 11).sum())
        assert ions == (job.oxidation_states == 2).sum()  # neutral
        if job.group.startswith("1x"):
            found = host.locate(
                Atoms(job.numbers, job.positions, cell=job.cell, pbc=True), job.oxidation_states
            )
            assert host.key(found) == job.group
