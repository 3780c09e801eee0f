"""Tables made from the store: states, failures, orders on identical atoms, frames."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from ase.units import GPa
from computed_again import calculation_of
from samples import LEVEL

from campaigns.naxfepo4_gpaw.cathodes_table import write_cathodes
from campaigns.naxfepo4_gpaw.magnetism_table import write_magnetism
from campaigns.naxfepo4_gpaw.page import cells_table, fill
from campaigns.naxfepo4_gpaw.same_positions import write_same_positions
from campaigns.naxfepo4_gpaw.states import RICH, ROOT
from campaigns.naxfepo4_gpaw.truth import GRID, failures, truth_figure, truth_table
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


def walk(name: str, order: str, start: float, energies: tuple[float, ...], store: Store, shift=0.0) -> None:
    """One order relaxed with the second atom at ``start`` (A), then carried to the middle at 2.2 A."""
    middle = 2.2 + shift
    series = [[[0.0, 0, 0], [start + way * (middle - start), 0, 0]] for way in (0.5, 1)]
    base = replace(solid(), name=f"{name} {order}", group=f"1x1x1:{name}:{order}", formula_units=4)
    relaxed = replace(
        base, kind="relaxation", task="cell", positions=np.array([[0.0, 0, 0], [start, 0, 0]])
    )
    answer(store, relaxed, energies[0])
    calculation = replace(
        base,
        kind="same-positions",
        task="series",
        series=np.array(series),
        provenance={"start": relaxed.digest},
    )
    cell = calculation.cell.tolist()
    with store.writing(calculation) as log:
        for geometry, energy in zip(series, energies[1:], strict=False):
            log.frame({"positions": geometry, "cell": cell, "energy": energy})
        if len(energies) < 3:
            log.skip(1, "collapsed")
        log.end("done")


def test_the_energy_of_relaxed_atoms_is_the_one_on_the_grid_of_their_cell(tmp_path):
    """As in the table of states: the difference of two orders must be the same in both."""
    store = Store(tmp_path / "store")
    for order, start, energy in (("Fe2333", 2.1, -10.0), ("Fe3233", 2.3, -9.9)):
        walk("Na1000", order, start, (energy, -9.85, -9.8), store)
    for record in list(store.records()):
        relaxed = record.calculation
        if relaxed.kind == "relaxation" and relaxed.group.endswith("Fe3233"):
            single = replace(relaxed, kind=GRID, task="single", provenance={"start": relaxed.digest})
            answer(store, single, -9.88)
    [row] = write_same_positions(store.records(), tmp_path).to_dict("records")
    assert row["relaxed_difference_mev_fu"] == pytest.approx(30)
    assert (row["rise_mev"], row["other_rise_mev"]) == (pytest.approx(200), pytest.approx(80))


def test_orders_that_end_on_the_same_atoms_are_compared(tmp_path):
    store = Store(tmp_path / "store")
    walk("Na1000", "Fe2333", 2.1, (-10.0, -9.9, -9.8), store)
    walk("Na1000", "Fe3233", 2.3, (-9.9, -9.85, -9.76), store)
    walk("Na1000", "Fe3323", 2.15, (-9.9, -9.85, -9.76), store, shift=1e-3)  # on other atoms
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
    settings = DftSettings(level=LEVEL)

    def relaxation(key):
        return relaxation_of(host.parse(key), host, settings, LEVEL)

    answer(store, relaxation("1x1x1:Na0000:Fe3333"), -171.0)
    answer(store, relaxation("1x1x1:Na1111:Fe2222"), -189.0)
    half = relaxation("1x1x1:Na1100:Fe2323")
    answer(store, half, -179.9)
    start = {"task": "single", "provenance": {"start": half.digest}}
    answer(store, replace(half, kind="orbital", orbital="b", **start), -179.8)
    answer(store, replace(half, kind="noise", task="single"), -179.9004)
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
    table = truth_table(states.records(), host, LEVEL).set_index("state_key")
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
    truth_figure(table.reset_index(), host, tmp_path / "states")
    assert (tmp_path / "states.svg").is_file()


def test_a_seed_that_turned_back_is_noise_and_no_other_orbital(states, host):
    """Kinds and seeds say what was steered to; where the electron ended is in the orbitals."""
    records = list(states.records())
    ground = next(r for r in records if r.calculation.state_key == "1x1x1:Na1100:Fe2323")
    [seed] = [r for r in records if r.calculation.orbital == "b"]
    states_of = ground.calculation.oxidation_states
    for sign, record in ((1, ground), (-1, seed)):
        orbitals = {}
        for site in ground.calculation.steered_sites():
            # An Fe3+ has no minority electron, and its emptiest orbitals differ.
            empty = [float(sign > 0), 0.0, float(sign < 0), 0.0, 0.0, 0.17]
            held = [0.0, 0.0, sign, 0.0, 0.0, 0.95]
            orbitals[str(site)] = held if states_of[site] == host.low else empty
        record.frames[-1]["orbitals"] = orbitals
    row = truth_table(records, host, LEVEL).set_index("state_key").loc["1x1x1:Na1100:Fe2323"]
    assert np.isnan(row["orbital_b_mev_fu"])


def test_the_energy_of_a_state_is_that_on_its_own_density_grid(states, host):
    """Formation energy and other seeds follow; the grid's worth is no noise of the state."""
    key = "1x1x1:Na1100:Fe2323"
    records = [record.calculation for record in states.records()]
    [half] = [c for c in records if (c.state_key, c.kind) == (key, "relaxation")]
    again = replace(half, task="single", kind=GRID, charges=False, provenance={"start": half.digest})
    before = truth_table(states.records(), host, LEVEL).set_index("state_key")
    states.path(again).unlink()  # the noise point is the same question
    answer(states, again, -179.9024)
    after = truth_table(states.records(), host, LEVEL).set_index("state_key")
    assert after.loc[key, "energy_ev"] == pytest.approx(-179.9024, abs=1e-9)
    moved = ["formation_mev_fu", "orbital_b_mev_fu"]
    shift = after.loc[key, moved] - before.loc[key, moved]
    assert shift["formation_mev_fu"] == pytest.approx(-0.6, abs=1e-6)
    assert shift["orbital_b_mev_fu"] == pytest.approx(0.6, abs=1e-6)
    assert np.isnan(after.loc[key, "noise_mev_fu"])
    others = [name for name in before.index if name != key]
    pd.testing.assert_frame_equal(after.loc[others], before.loc[others])


def test_other_seeds_are_compared_on_their_own_atoms_after_a_further_step(states, host):
    record = next(r for r in states.records() if r.calculation.state_key == "1x1x1:Na1100:Fe2323")
    last = record.frames[-1]
    moved = (np.array(last["positions"]) + 0.01).tolist()
    with states.writing(record.calculation) as log:
        log.frame({**last, "positions": moved, "energy": last["energy"] - 0.04})
    half = truth_table(states.records(), host, LEVEL).set_index("state_key").loc["1x1x1:Na1100:Fe2323"]
    assert half["formation_mev_fu"] == pytest.approx(15.0)
    assert half["orbital_b_mev_fu"] == pytest.approx(25.0)
    assert half["noise_mev_fu"] == pytest.approx(-0.1)


def test_formation_energies_need_both_ends(states, host):
    for record in states.records():
        if record.calculation.state_key == "1x1x1:Na0000:Fe3333":
            states.path(record.calculation).unlink()
    with pytest.raises(UserError, match="Na0000:Fe3333 is not relaxed"):
        truth_table(states.records(), host, LEVEL)


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
    again = calculation_of(frame, record.calculation.oxidation_states, LEVEL)
    assert again.digest == record.calculation.digest
    with pytest.raises(UserError, match="is at the level"):
        calculation_of(frame, record.calculation.oxidation_states, Level(cutoff=600, kpoints=(1, 1, 1)))


def test_the_page_shows_the_committed_table(tmp_path):
    """The table in docs/dft.md is that of cells.csv; without its marks nothing is written."""
    docs = ROOT / "docs"
    table = cells_table(pd.read_csv(docs / "dft/cells.csv"), pd.read_csv(docs / "dft/first_level.csv"))
    page = tmp_path / "dft.md"
    page.write_text((docs / "dft.md").read_text())
    fill(page, table)
    assert page.read_text() == (docs / "dft.md").read_text()
    assert table.count("\n") == 17
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no marks"):
        fill(page, table)
    assert page.read_text() == "no marks"


def test_antiferromagnetic_energies_are_against_their_own_ends(tmp_path):
    store, level = Store(tmp_path / "store"), solid().level
    other = level.model_copy(update={"magnetism": "antiferromagnetic"})
    keys = ("1x1x1:Na0000:Fe3333", "1x1x1:Na1001:Fe2323", "1x1x1:Na1111:Fe2222")
    states = pd.DataFrame(
        {
            "state_key": keys,
            "x": [0.0, 0.5, 1.0],
            "energy_ev": [-10.0, -20.0, -30.2],
            "formation_mev_fu": [0.0, 50.0, 0.0],
        }
    )
    for key, energy in zip(keys, (-10.2, -20.2, -30.2), strict=True):
        base = replace(
            solid(name=key, strain=-energy / 1000), name=f"afm {key}", kind="magnetism", level=other
        )
        calculation = replace(base, oxidation_states=np.array([2, 3], dtype=np.int64))
        answer(store, calculation, energy, magmoms=[3.66, -4.3])
    ordinary = replace(solid(), group=keys[0], name="ferromagnetic", kind="magnetism", level=level)
    answer(store, ordinary, 0.0)  # of the other order: no row
    write_magnetism(store.records(), states, level, tmp_path)
    table = pd.read_csv(tmp_path / "magnetism.csv")
    assert list(table["state_key"]) == list(keys)
    assert list(table["against_ferromagnetic_mev_fu"]) == pytest.approx([-100.0, -100.0, 0.0])
    # The middle of -10.2 and -30.2 eV is -20.2: on the line, in a cell of two formula units.
    assert list(table["formation_mev_fu"]) == pytest.approx([0.0, 0.0, 0.0], abs=1e-9)
    assert list(table["ferromagnetic_formation_mev_fu"]) == [0.0, 50.0, 0.0]
    assert set(table["moments_mub"]) == {"+3.66 -4.30"}
    assert (tmp_path / "magnetism.png").exists()


def test_magnetism_without_an_end_has_no_formation_energy(tmp_path):
    store = Store(tmp_path / "store")
    other = solid().level.model_copy(update={"magnetism": "antiferromagnetic"})
    states = pd.DataFrame({"state_key": ["a"], "x": [0.5], "energy_ev": [-20.0], "formation_mev_fu": [3.0]})
    answer(store, replace(solid(), group="a", name="afm a", kind="magnetism", level=other), -20.4)
    write_magnetism(store.records(), states, solid().level, tmp_path)
    table = pd.read_csv(tmp_path / "magnetism.csv")
    assert table["formation_mev_fu"].isna().all()
    assert table["against_ferromagnetic_mev_fu"].tolist() == pytest.approx([-200.0])
    assert not (tmp_path / "magnetism.png").exists()


def test_other_cathodes_are_told_with_their_cells_and_maricite_against_olivine(tmp_path):
    store = Store(tmp_path / "store")
    states = pd.DataFrame({"state_key": [RICH], "energy_ev": [-40.0]})
    write_cathodes(store.records(), states, tmp_path)
    assert not (tmp_path / "cathodes.csv").exists()
    ions = np.array([2, 0])
    for name, energy in (("NaMnPO4", -19.0), ("maricite NaFePO4", -20.1)):
        calculation = replace(solid(name=name), name=f"cell of {name}", oxidation_states=ions)
        answer(store, calculation, energy)
    answer(store, solid(name="strained NaMnPO4"), -18.0)
    write_cathodes(store.records(), states, tmp_path)
    manganese, maricite = pd.read_csv(tmp_path / "cathodes.csv").to_dict("records")
    assert (manganese["cathode"], maricite["cathode"]) == ("NaMnPO4", "maricite NaFePO4")
    assert np.isnan(manganese["against_olivine_mev_fu"])
    # -20.1 eV in two formula units and -40 eV in four: 50 meV per formula unit lower.
    assert maricite["against_olivine_mev_fu"] == pytest.approx(-50.0)
    assert (maricite["ions"], maricite["a_a"], maricite["gamma_deg"]) == ("Mg2+", 4.2, 90.0)
    assert maricite["volume_a3"] == pytest.approx(4.2**3) and maricite["moment_mub"] == 3.66
