"""Tables made from the store: convergence, states, failures, frames."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ase.units import GPa
from computed_again import calculation_of

from campaigns.naxfepo4_gpaw.convergence import (
    convergence_table,
    metal_energies,
    order_table,
    voltages,
    write_convergence,
)
from campaigns.naxfepo4_gpaw.lattice_constants import lattice_table
from campaigns.naxfepo4_gpaw.page import cells_table, fill
from campaigns.naxfepo4_gpaw.same_positions import write_same_positions
from campaigns.naxfepo4_gpaw.states import ROOT
from campaigns.naxfepo4_gpaw.truth import failures, truth_table, write_truth
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.export import frames_of
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.stages.dft.plan import relaxation_of
from workflow_lib.stages.dft.settings import DftSettings

PRESSURE, PULAY = 3.0, 2.0
"""GPa, of the invented solid and of its unconverged basis."""


def solid(cutoff=500.0, strain=0.0, mesh=(1, 1, 1), name="solid") -> Calculation:
    return Calculation(
        name=f"{name} {cutoff} {strain} {mesh}",
        group=name,
        kind="convergence",
        task="single",
        numbers=np.array([12, 8]),
        positions=np.array([[0.0, 0, 0], [2.1, 0.01 * len(name), 0]]) * (1 + strain),
        cell=np.eye(3) * 4.2 * (1 + strain),
        oxidation_states=np.zeros(2, dtype=np.int64),
        level=Level(cutoff=cutoff, kpoints=mesh),
        formula_units=2,
    )


def energy_of(calculation: Calculation) -> float:
    """A solid under constant pressure, E = E0 - P V, with a basis error of 0.1 eV 500/cutoff."""
    volume = abs(np.linalg.det(calculation.cell))
    step = 0.0 if calculation.level.kpoints == (1, 1, 1) else 0.4
    return -10 - PRESSURE * GPa * volume + 0.1 * 500 / calculation.level.cutoff + step


def answer(store: Store, calculation: Calculation, energy: float | None = None, **frame) -> None:
    n = len(calculation)
    content = {
        "positions": calculation.positions.tolist(),
        "cell": calculation.cell.tolist(),
        "energy": energy_of(calculation) if energy is None else energy,
        "forces": [[500 / calculation.level.cutoff, 0, 0]] * n,
        "stress": (-np.eye(3) * (PRESSURE + PULAY) * GPa).tolist(),
        "magmoms": np.choose(calculation.oxidation_states, [0.0, 0.0, 3.66, 4.3]).tolist(),
        "charges": None,
        "states": calculation.oxidation_states.tolist(),
        "orbitals": {},
        "scf_iterations": 20,
        "seconds": 1.0,
    }
    with store.writing(calculation) as log:
        log.frame(content | frame)
        log.end("done")


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "store")
    for cutoff in (500.0, 700.0, 900.0):
        answer(store, solid(cutoff))
    for strain in (-0.01, 0.01):
        answer(store, solid(500.0, strain))
    answer(store, solid(500.0, mesh=(1, 2, 2)))
    return store


def test_the_table_separates_basis_stress_from_pressure(store):
    table = convergence_table(store.records())
    assert list(table["cutoff_ev"]) == [500, 700, 900, 500]
    first = table.iloc[0]
    # 0.1 eV - 0.1 * 5/9 eV over two formula units.
    assert first["energy_shift_mev_fu"] == pytest.approx(1000 * (0.1 - 0.5 / 9) / 2)
    assert first["force_change_ev_a"] == pytest.approx(1 - 5 / 9)
    assert first["pressure_gpa"] == pytest.approx(PRESSURE + PULAY)
    # Central differences of V at 1 % strain: off by the strain squared, 1e-4 of the value.
    assert first["pressure_by_energy_gpa"] == pytest.approx(PRESSURE, rel=1e-3)
    assert first["pulay_gpa"] == pytest.approx(PULAY, abs=0.01)
    assert table["pressure_by_energy_gpa"].isna().sum() == 3


def test_meshes_are_compared_with_gamma_at_their_cutoff(store):
    [row] = [
        row for row in convergence_table(store.records()).to_dict("records") if row["kpoints"] == "1x2x2"
    ]
    assert row["energy_shift_mev_fu"] == pytest.approx(200.0)
    assert row["force_change_ev_a"] == 0.0


def test_an_empty_store_is_told(tmp_path):
    with pytest.raises(UserError, match="no finished convergence"):
        convergence_table(Store(tmp_path).records())


def _metal(lattice, cutoff, mesh):
    return Calculation(
        name=f"sodium {lattice} {cutoff} {mesh}",
        group="Na",
        kind="sodium",
        task="single",
        numbers=np.array([11]),
        positions=np.zeros((1, 3)),
        cell=(np.ones((3, 3)) - 2 * np.eye(3)) * lattice / 2,
        oxidation_states=np.zeros(1, dtype=np.int64),
        level=Level(cutoff=cutoff, kpoints=(mesh, mesh, mesh)),
        formula_units=1,
        unsteered=True,
    )


def test_the_metal_is_the_lowest_lattice_at_the_common_mesh(store, tmp_path):
    for lattice, cutoff, mesh, energy in (
        (4.1, 500.0, 16, -1.30),
        (4.2, 500.0, 16, -1.31),
        (4.2, 900.0, 16, -1.32),
        (4.2, 500.0, 8, -1.50),
    ):
        answer(store, _metal(lattice, cutoff, mesh), energy)
    metal = metal_energies(store.records(), "Na")
    assert metal == {500.0: -1.31, 900.0: -1.32}
    answer(store, solid(name="full"), -40.0)
    answer(store, solid(name="vacant"), -24.0)
    table = convergence_table(store.records())
    volts = voltages(table, metal, empty="vacant", full="full", sites=4)
    # -(-40 + 24 + 4 * 1.31) / 4; the other cut-off lacks both ends.
    assert volts.to_dict() == pytest.approx({500.0: 2.69})
    write_convergence(store.records(), tmp_path, empty="vacant", full="full", sites=4)
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "convergence.csv",
        "order_convergence.csv",
        "voltage_by_cutoff.csv",
        "convergence.svg",
        "convergence.png",
    }


def test_orders_are_compared_level_by_level(tmp_path):
    store = Store(tmp_path)
    low, high = (replace(solid(name=name), kind="relaxation", formula_units=2) for name in ("low", "high"))
    for start, energy in ((low, -10.0), (high, -9.8)):
        answer(store, start, energy)
        fine = {"kind": "order-convergence", "provenance": {"start": start.digest}}
        answer(store, replace(start, level=Level(cutoff=800.0), **fine), energy - 3.0)
    table = order_table(store.records())
    assert [*table["cutoff_ev"]] == [500, 500, 800, 800]
    assert [*table["structure"]] == ["high", "low"] * 2
    np.testing.assert_allclose(table["relative_mev_fu"], [100, 0, 100, 0], atol=1e-9)
    assert order_table([]).empty


def walk(name: str, order: str, start: float, energies: tuple[float, ...], store: Store, shift=0.0) -> None:
    """One order carried from ``start`` (A, of the second atom) to the middle at 2.2 A."""
    middle = 2.2 + shift
    series = [[[0.0, 0, 0], [start + way * (middle - start), 0, 0]] for way in (0, 0.5, 1)]
    base = replace(solid(), name=f"{name} {order}", group=f"1x1x1:{name}:{order}", kind="same-positions")
    calculation = replace(base, task="series", series=np.array(series), formula_units=4)
    with store.writing(calculation) as log:
        for geometry, energy in zip(series, energies, strict=False):
            log.frame({"positions": geometry, "energy": energy})
        log.end("done")


def test_orders_that_end_on_the_same_atoms_are_compared(tmp_path):
    store = Store(tmp_path / "store")
    walk("Na1000", "Fe2333", 2.1, (-10.0, -9.9, -9.8), store)
    walk("Na1000", "Fe3233", 2.3, (-9.9, -9.85, -9.76), store)
    walk("Na1000", "Fe3323", 2.1, (-9.9, -9.85, -9.76), store, shift=1e-3)  # on other atoms
    walk("Na1100", "Fe2233", 2.4, (-9.9, -9.85), store)  # one geometry was lost
    [row] = write_same_positions(store.records(), tmp_path).to_dict("records")
    assert (row["ions"], row["order"], row["other"]) == ("1x1x1:Na1000", "Fe2333", "Fe3233")
    numbers = [row[name] for name in (*row,)[3:]]
    np.testing.assert_allclose(numbers, [25, 10, 200, 140], atol=1e-9)
    assert {path.name for path in tmp_path.glob("same*")} == {
        "same_positions.csv",
        "same_positions.svg",
        "same_positions.png",
    }
    empty = write_same_positions([], tmp_path / "none")
    assert empty.empty and [path.name for path in (tmp_path / "none").iterdir()] == ["same_positions.csv"]


@pytest.fixture
def states(tmp_path, host, rule) -> Store:
    """Ends, one state with an orbital, a noise point and a collapsed orbital, and one that failed."""
    store = Store(tmp_path / "states")
    settings = DftSettings()

    def relaxation(key):
        return relaxation_of(host.parse(key), host, settings, Level())

    answer(store, relaxation("1x1x1:Na0000:Fe3333"), -171.0)
    answer(store, relaxation("1x1x1:Na1111:Fe2222"), -189.0)
    half = relaxation("1x1x1:Na1100:Fe2323")
    answer(store, half, -179.9)
    start = {"task": "single", "provenance": {"start": half.digest}}
    answer(store, replace(half, kind="orbital", orbital="b", **start), -179.8)
    answer(store, replace(half, kind="noise", **start), -179.9004)
    with store.writing(replace(half, kind="orbital", name="orbital c", orbital="c", **start)) as log:
        log.end("failed", "collapsed to Fe 2 2 3 3 (wanted Fe 2 3 2 3)")
    with store.writing(relaxation("1x1x1:Na1010:Fe3232")) as log:
        log.frame(
            {"positions": half.positions.tolist(), "energy": -178.0, "forces": [[1.0, 0, 0]] * 26}
            | {"magmoms": [0.0] * 26, "cell": half.cell.tolist(), "states": [0] * 26}
        )
        log.end("failed", "collapsed to Fe 2 3 2 3 (wanted Fe 3 2 3 2)")
    return store


def test_the_table_of_states_names_all_sixteen(states, host, tmp_path):
    table = truth_table(states.records(), host, Level()).set_index("state_key")
    assert len(table) == 16
    assert table["status"].value_counts().to_dict() == {"missing": 12, "done": 3, "failed": 1}
    half = table.loc["1x1x1:Na1100:Fe2323"]
    assert half["formation_mev_fu"] == pytest.approx(25.0)
    assert half["orbital_b_mev_fu"] == pytest.approx(25.0)
    assert half["noise_mev_fu"] == pytest.approx(-0.1)
    assert np.isnan(half["orbital_c_mev_fu"])
    assert (half["moment_low"], half["moment_high"]) == pytest.approx((3.66, 4.3))
    failed = table.loc["1x1x1:Na1010:Fe3232"]
    assert np.isnan(failed["formation_mev_fu"]) and failed["reason"].startswith("collapsed")
    lost = failures(states.records())
    assert sorted(lost["name"]) == ["1x1x1:Na1010:Fe3232", "orbital c"]
    write_truth(states.records(), host, Level(), tmp_path / "out")
    assert (tmp_path / "out" / "states.svg").is_file()


def test_other_seeds_are_compared_on_their_own_atoms_after_a_further_step(states, host):
    record = next(r for r in states.records() if r.calculation.state_key == "1x1x1:Na1100:Fe2323")
    last = record.frames[-1]
    moved = (np.array(last["positions"]) + 0.01).tolist()
    with states.writing(record.calculation) as log:
        log.frame({**last, "positions": moved, "energy": last["energy"] - 0.04})
    half = truth_table(states.records(), host, Level()).set_index("state_key").loc["1x1x1:Na1100:Fe2323"]
    assert half["formation_mev_fu"] == pytest.approx(15.0)
    assert half["orbital_b_mev_fu"] == pytest.approx(25.0)
    assert half["noise_mev_fu"] == pytest.approx(-0.1)


def test_formation_energies_need_both_ends(states, host, tmp_path):
    for record in states.records():
        if record.calculation.state_key == "1x1x1:Na0000:Fe3333":
            states.path(record.calculation).unlink()
    with pytest.raises(UserError, match="Na0000:Fe3333 is not relaxed"):
        truth_table(states.records(), host, Level())


def test_frames_come_out_in_the_wanted_state_only(states):
    frames = frames_of(states.records(), "test")
    kinds = sorted(frame.kind for frame in frames)
    assert kinds == ["noise", "orbital", "relaxation", "relaxation", "relaxation"]
    assert {frame.orbital for frame in frames} == {"a", "b"}
    assert all(frame.charges is None and frame.stress.shape == (3, 3) for frame in frames)
    assert not any(frame.stress_converged for frame in frames)
    assert len({frame.frame_id for frame in frames}) == 5


def test_a_frame_becomes_the_calculation_that_made_it(states):
    frame = next(f for f in frames_of(states.records(), "test") if f.kind == "noise")
    record = next(r for r in states.records() if r.calculation.kind == "noise")
    again = calculation_of(frame, record.calculation.oxidation_states, Level())
    assert again.digest == record.calculation.digest
    with pytest.raises(UserError, match="is at the level"):
        calculation_of(frame, record.calculation.oxidation_states, Level(cutoff=600))


def test_lattice_of_relaxed_cells_beside_what_is_known(tmp_path):
    store = Store(tmp_path)
    start = replace(solid(800.0), kind="cell", task="cell")
    cell = np.diag([4.1, 4.2, 4.3])
    cell[1, 0] = 0.05  # b leans over by 0.68 degrees
    with store.writing(start) as log:
        for scale in (1.1, 1.0):
            log.frame(
                {
                    "positions": start.positions.tolist(),
                    "cell": (cell * scale).tolist(),
                    "energy": -1.0,
                    "forces": [[0.0, 0.03, 0.04], [0.0, 0.0, 0.0]],
                    "stress": (np.diag([1.0, -2.0, 0.5]) * GPa).tolist(),
                }
            )
    table = lattice_table(store.records(), {"solid": {"a book": (4.0, 4.0, 4.5)}, "other": {}})
    ours, book = table.to_dict("records")
    assert ours["status"] == "interrupted"
    assert ours["a_a"] == pytest.approx(4.1)
    assert ours["b_a"] == pytest.approx(np.hypot(4.2, 0.05))
    assert ours["volume_a3"] == pytest.approx(4.1 * 4.2 * 4.3)
    assert ours["largest_angle_off_90"] == pytest.approx(np.degrees(np.arctan(0.05 / 4.2)))
    assert ours["largest_stress_gpa"] == pytest.approx(2.0)
    assert ours["fmax"] == pytest.approx(0.05)
    assert (book["source"], book["volume_a3"]) == ("a book", pytest.approx(72.0))


def test_the_page_shows_the_committed_table(tmp_path):
    """The table in docs/dft.md is that of cells.csv; without its marks nothing is written."""
    docs = ROOT / "docs"
    table = cells_table(pd.read_csv(docs / "dft/cells.csv"), pd.read_csv(docs / "dft/states.csv"))
    page = tmp_path / "dft.md"
    page.write_text((docs / "dft.md").read_text())
    fill(page, table)
    assert page.read_text() == (docs / "dft.md").read_text()
    assert table.count("\n") == 17
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no marks"):
        fill(page, table)
    assert page.read_text() == "no marks"
