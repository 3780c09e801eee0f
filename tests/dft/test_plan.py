"""Pending arrangements become calculations, and the store's answers become formation energies."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from ase.dft.kpoints import monkhorst_pack
from invented_hosts import magnesium_phosphate, magnesium_silicate, two_sodium
from samples import LEVEL, ROOT

from workflow_lib.core.errors import UserError
from workflow_lib.dft.jobs import read_jobs, write_jobs
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.ewald import electrostatic_order, ewald_energy
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import read_host_file
from workflow_lib.stages.dft.plan import (
    calculations_of,
    end_members,
    energies,
    missing,
    plan_pending,
    relaxation_of,
)
from workflow_lib.stages.dft.settings import DftSettings

SETTINGS = DftSettings(level=LEVEL, cell="fixed")
GIVEN, OPEN = "1x1x1:Na1100:Fe2323", "1x1x1:Na1010"


@pytest.fixture
def pending(tmp_path):
    path = tmp_path / "pending.csv"
    rows = [("1x1x1", 0.5, 2, GIVEN), ("1x1x1", 0.5, 2, OPEN)]
    pd.DataFrame(rows, columns=["cell", "x", "n_occupied", "state_key"]).to_csv(path, index=False)
    return path


def test_keys_are_parsed_back(host):
    rng = np.random.default_rng(3)
    for repeat, n in (((1, 1, 1), 2), ((1, 3, 1), 8), ((1, 1, 2), 3)):
        for charges in (True, False):
            key = host.key(host.random(repeat, n, charges=charges, rng=rng))
            assert host.key(host.parse(key)) == key
    for wrong in ("Na1100", "1x1x1:Li1000", "1x1x1:Na0110", "1x1:Na1100", "1x1x1:Na1100:Fe9999"):
        with pytest.raises(UserError, match="no state key"):
            host.parse(wrong)


@pytest.mark.parametrize("ions", ["1x1x1:Na1100", "1x1x1:Na1010", "1x1x1:Na1001", "1x1x1:Na1110"])
def test_the_electrostatic_order_is_the_lowest_of_all(host, rule, ions):
    arrangement = host.parse(ions)
    found = {}
    for reduced in combinations(range(4), len(arrangement.occupied)):
        atoms = host.build(Arrangement((1, 1, 1), arrangement.occupied, reduced))
        charges = rule.formal(atoms.numbers, atoms.get_array("oxidation_states"))
        found[reduced] = ewald_energy(atoms, charges)
    chosen = electrostatic_order(arrangement, host)
    # Both are Ewald sums of pymatgen; equivalent orders tie, so energies are compared.
    assert found[chosen.reduced] == pytest.approx(min(found.values()), abs=1e-6)


def test_a_plan_holds_each_arrangement_with_both_ends(host, rule, pending, tmp_path):
    plan = plan_pending(pending, host, SETTINGS)
    assert [job.state_key for job in plan[GIVEN]] == [GIVEN, "1x1x1:Na0000:Fe3333", "1x1x1:Na1111:Fe2222"]
    assert plan[OPEN][0].state_key.startswith(f"{OPEN}:Fe")
    for jobs in plan.values():
        for job in jobs:
            job.check(rule.formal_charges)
    # The ends are shared, so two arrangements need four calculations.
    calculations = missing(plan, Store(tmp_path / "store"))
    assert len(calculations) == 4
    assert write_jobs(calculations, tmp_path / "jobs.jsonl") == 4
    assert [c.digest for c in read_jobs(tmp_path / "jobs.jsonl")] == [c.digest for c in calculations]


def test_supercells_are_compared_with_ends_at_the_equivalent_mesh(host):
    assert LEVEL.in_unit_cell((1, 3, 1)).kpoints == (1, 3, 1)
    assert Level(cutoff=500.0, kpoints=(1, 2, 2)).in_unit_cell((1, 3, 2)).kpoints == (1, 6, 4)
    empty, full = end_members(host, SETTINGS, (1, 3, 1))
    assert empty.level.energy_reference.endswith("1x3x1")
    assert (len(empty), len(full)) == (24, 28)


def test_without_an_engine_a_supercell_may_have_no_ends(host, pending, tmp_path):
    """The level that nothing is computed at once stopped a run of other people's frames at its end."""
    key = host.key(host.random((2, 1, 1), 3, charges=True, rng=np.random.default_rng(1)))
    row = {"cell": ["2x1x1"], "x": [0.375], "n_occupied": [3], "state_key": [key]}
    pd.DataFrame(row).to_csv(pending, index=False)
    settings = DftSettings()
    assert settings.level.shifted
    plan = plan_pending(pending, host, settings)
    assert [job.state_key for job in plan[key]] == [key]
    (energy,) = energies(pending, plan, Store(tmp_path / "store"), tmp_path / "out").to_dict("records")
    assert (energy["status"], energy["formation_mev_fu"]) == ("pending", None)
    with pytest.raises(UserError, match="equals none of the unit cell"):
        plan_pending(pending, host, DftSettings(engine="gpaw"))


def _points(level, repeat=(1, 1, 1)):
    """Scaled k-points of the unit cell that a mesh of its supercell samples."""
    found = monkhorst_pack(level.kpoints)
    if not level.shifted:
        found = found + [(points % 2 == 0) / (2 * points) for points in level.kpoints]
    folded = (np.array(list(product(*map(range, repeat))))[:, None] + found) / repeat
    return np.unique(np.round(folded.reshape(-1, 3) % 1, 6) % 1, axis=0)


def test_the_mesh_of_the_ends_samples_the_same_points_or_is_refused():
    meshes = (((1, 1, 1), False), ((2, 1, 3), False), ((1, 2, 2), True), ((2, 3, 4), True))
    for (kpoints, shifted), repeat in product(meshes, product((1, 2, 3), repeat=3)):
        level = Level(cutoff=500.0, kpoints=kpoints, shifted=shifted)
        plain = Level.model_construct(
            **(level.model_dump() | {"kpoints": tuple(np.multiply(kpoints, repeat))})
        )
        same = np.array_equal(_points(plain), _points(level, repeat))
        if same:
            assert level.in_unit_cell(repeat).kpoints == plain.kpoints
        else:
            with pytest.raises(UserError, match="supercell equals none of the unit cell"):
                level.in_unit_cell(repeat)


def _answer(store, calculation, energy):
    with store.writing(calculation) as log:
        forces = [[0.03, 0, 0.04]] * len(calculation)
        log.frame({"energy": energy, "forces": forces, "cell": (1.01 * calculation.cell).tolist()})
        log.end("done")


@pytest.fixture
def answered(host, tmp_path):
    """A store that knows one arrangement of the embedded host, and the request it answers."""
    store, known = Store(tmp_path / "store"), relaxation_of(host.parse(GIVEN), host, SETTINGS, LEVEL)
    _answer(store, known, -179.9)
    return store, known


def _edited(rule, **changes):
    described = read_host_file(ROOT / "resources/hosts/olivine-nafepo4.json", rule)
    return Host(described.model_copy(update=changes), rule)


def test_an_answer_for_another_crystal_is_refused_where_it_is_read_and_where_it_is_written(
    host, rule, answered
):
    store, known = answered
    longer = {f"cell_{end}": 1.001 * getattr(host, f"cell_{end}") for end in ("full", "empty")}
    swapped = {}
    for name in ("scaled_full", "scaled_empty"):
        sites = getattr(host, name).copy()
        sites[[*host.mobile_sites, *host.redox_sites]] = sites[[*host.redox_sites, *host.mobile_sites]]
        swapped[name] = sites
    # With the iron sites in another order the same digits name another charge order.
    order = np.arange(len(host.numbers))
    order[host.redox_sites] = np.roll(host.redox_sites, 1)
    renumbered = {name: getattr(host, name)[order] for name in ("scaled_full", "scaled_empty")}
    for changes, why in ((longer, "0.1 %"), (swapped, "an atom lies"), (renumbered, "an atom lies")):
        other = _edited(rule, **changes)
        asked = replace(relaxation_of(host.parse(GIVEN), other, SETTINGS, LEVEL), state_key=known.state_key)
        assert asked.digest == known.digest
        with pytest.raises(UserError, match=f"of another host: .*{why}.*; give this host a store"):
            store.get(asked)
        with pytest.raises(UserError, match="of another host"), store.writing(asked):
            pass


def test_an_answer_is_known_again_however_its_crystal_is_written_down(host, answered):
    store, known = answered
    order = np.random.default_rng(5).permutation(len(known))
    turn, _ = np.linalg.qr(np.random.default_rng(6).normal(size=(3, 3)))
    shaken = known.positions + 0.05 * np.random.default_rng(7).uniform(-1, 1, known.positions.shape)
    asked = replace(
        known,
        numbers=known.numbers[order],
        oxidation_states=known.oxidation_states[order],
        positions=((shaken + known.cell[1]) @ turn)[order],
        cell=known.cell @ turn,
    )
    assert store.get(asked).status == "done"
    undistorted = SETTINGS.model_copy(update={"polaron_distortion": 0.0})
    arrangement = host.parse(GIVEN)
    mobile, redox = host.permutations((1, 1, 1))
    for moved, turned in zip(mobile, redox, strict=True):
        equivalent = Arrangement(
            (1, 1, 1),
            tuple(int(moved[site]) for site in arrangement.occupied),
            tuple(int(turned[site]) for site in arrangement.reduced),
        )
        assert store.get(relaxation_of(equivalent, host, undistorted, LEVEL)).status == "done"


def test_energies_stay_pending_until_all_three_are_there(host, pending, tmp_path):
    plan = plan_pending(pending, host, SETTINGS)
    store = Store(tmp_path / "store")
    table = energies(pending, plan, store, tmp_path)
    assert list(table["status"]) == ["pending", "pending"]
    assert table[["energy_ev", "formation_mev_fu"]].isna().all(axis=None)
    asked, empty, full = plan[GIVEN]
    _answer(store, asked, -179.9)
    table = energies(pending, plan, store, tmp_path)
    assert table["status"][0] == "done" and pd.isna(table["formation_mev_fu"][0])
    _answer(store, empty, -171.0)
    _answer(store, full, -189.0)
    table = energies(pending, plan, store, tmp_path).set_index("asked_key")
    # (-179.9 - (-171 - 189) / 2) / 4 formula units = 25 meV.
    assert table.loc[GIVEN, "formation_mev_fu"] == pytest.approx(25.0, abs=1e-6)
    assert table.loc[GIVEN, "fmax_ev_a"] == pytest.approx(0.05)
    assert table.loc[OPEN, "status"] == "pending"
    assert len(missing(plan, store)) == 1


def test_where_cells_relax_equivalent_arrangements_share_the_answer_and_its_volume(host, pending, tmp_path):
    relaxed = DftSettings(level=LEVEL)
    assert relaxed.cell == "relaxed"
    plan = plan_pending(pending, host, relaxed)
    assert {job.task for jobs in plan.values() for job in jobs} == {"cell"}
    assert not {job.digest for job in calculations_of(plan)} & {
        job.digest for job in calculations_of(plan_pending(pending, host, SETTINGS))
    }
    asked = plan[GIVEN][0]
    mobile, redox = host.permutations((1, 1, 1))
    given = host.parse(GIVEN)
    for moved, turned in zip(mobile, redox, strict=True):
        occupied, reduced = (
            tuple(int(where[site]) for site in sites)
            for where, sites in ((moved, given.occupied), (turned, given.reduced))
        )
        equivalent = relaxation_of(Arrangement((1, 1, 1), occupied, reduced), host, relaxed, LEVEL)
        assert equivalent.digest == asked.digest
    store = Store(tmp_path / "store")
    _answer(store, asked, -179.9)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert row["volume_a3"] == pytest.approx(1.01**3 * np.linalg.det(asked.cell))


def test_a_failed_calculation_is_reported_with_its_reason_and_not_asked_again(host, pending, tmp_path):
    plan = plan_pending(pending, host, SETTINGS)
    store = Store(tmp_path / "store")
    with store.writing(plan[GIVEN][0]) as log:
        log.end("failed", "collapsed to Fe 2 2 3 3")
    table = energies(pending, plan, store, tmp_path).set_index("asked_key")
    assert (table.loc[GIVEN, "status"], table.loc[GIVEN, "reason"]) == ("failed", "collapsed to Fe 2 2 3 3")
    assert pd.isna(table.loc[GIVEN, "energy_ev"])
    assert plan[GIVEN][0].digest not in {c.digest for c in missing(plan, store)}


def test_of_orbital_seeds_the_lowest_finished_relaxation_counts(host, pending, tmp_path):
    """Of this arrangement, level and force only, whichever was asked for, also where that one failed."""
    plan = plan_pending(pending, host, SETTINGS)
    asked, *ends = plan[GIVEN]
    other, store = replace(asked, orbital="ab"), Store(tmp_path / "other")
    _answer(store, other, -180.0)
    _answer(store, replace(asked, orbital="c", fmax=0.2), -190.0)
    _answer(store, replace(asked, orbital="b", level=Level(cutoff=300.0, kpoints=(1, 1, 1))), -190.0)
    for end in ends:
        _answer(store, end, -180.0)
    for energy, status, lowest in (
        (None, "failed", other),
        (-179.9, "done", other),
        (-180.1, "done", asked),
    ):
        store.path(asked).unlink(missing_ok=True)
        if status == "failed":
            with store.writing(asked) as log:
                log.end("failed", "collapsed to Fe 2 2 3 3")
        else:
            _answer(store, asked, energy)
        row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
        assert (row["status"], row["orbital"], row["digest"]) == ("done", lowest.orbital, lowest.digest)
        best = min(energy or 0.0, -180.0)
        assert row["energy_ev"] == pytest.approx(best, abs=1e-9) and pd.isna(row["reason"])
        assert row["formation_mev_fu"] == pytest.approx(1000 * (best + 180.0) / 4, abs=1e-6)


def test_a_list_with_other_columns_is_one_line(host, tmp_path):
    path = tmp_path / "pending.csv"
    path.write_text("cell,x,n_occupied,key\n1x1x1,0.5,2,1x1x1:Na1001:Fe2323\n")
    with pytest.raises(UserError, match=r"pending.csv has no column state_key; run the searches again"):
        plan_pending(path, host, SETTINGS)


def test_a_damaged_job_file_names_the_line(tmp_path, host, pending):
    path = tmp_path / "jobs.jsonl"
    write_jobs([plan_pending(pending, host, SETTINGS)[GIVEN][0]], path)
    path.write_text(path.read_text() + "{}\n")
    with pytest.raises(UserError, match="line 2: no DFT calculation"):
        read_jobs(path)


def test_an_engine_must_fit_the_level():
    with pytest.raises(ValueError, match="engine vasp computes at level"):
        DftSettings(engine="vasp")
    level = Level(code="VASP", cutoff=520, kpoints=(1, 1, 1))
    assert DftSettings(engine="vasp", level=level).engine == "vasp"


@pytest.mark.parametrize(
    ("host", "key", "ends"),
    [
        (magnesium_silicate(), "1x1x1:Mg1100", ("1x1x1:Mg0000:Fe4444", "1x1x1:Mg1111:Fe2222")),
        (two_sodium(), "2x1x1:Na1100", ("1x1x1:Na00:Fe4", "1x1x1:Na11:Fe2")),
    ],
    ids=["two electrons an ion", "two ions a redox site"],
)
def test_plans_for_other_charges(host, key, ends, tmp_path):
    arrangement = host.parse(key)
    table = pd.DataFrame(
        [(arrangement.repeat, 0.5, 2, key)], columns=["cell", "x", "n_occupied", "state_key"]
    )
    table.to_csv(tmp_path / "pending.csv", index=False)
    plan = plan_pending(tmp_path / "pending.csv", host, SETTINGS)
    assert plan[key][0].state_key.startswith(f"{key}:Fe")
    assert tuple(job.state_key for job in plan[key][1:]) == ends
    for job in plan[key]:
        job.check(host.rule.formal_charges)


def test_a_host_without_a_neutral_end_has_no_plan(tmp_path):
    table = pd.DataFrame(
        [("1x1x1", 0.5, 2, "1x1x1:Mg1100")], columns=["cell", "x", "n_occupied", "state_key"]
    )
    table.to_csv(tmp_path / "pending.csv", index=False)
    with pytest.raises(UserError, match="the full end member of invented MgFePO4 is not neutral"):
        plan_pending(tmp_path / "pending.csv", magnesium_phosphate(), SETTINGS)


def test_a_seed_that_nobody_asked_for_counts_whatever_the_order_of_its_atoms(host, pending, tmp_path):
    plan, store = plan_pending(pending, host, SETTINGS), Store(tmp_path / "store")
    asked, *_ = plan[GIVEN]
    one, other = np.flatnonzero((asked.numbers == 26) & (asked.oxidation_states == 2))
    order = np.arange(len(asked))
    order[[one, other]] = other, one
    rows = {name: getattr(asked, name)[order] for name in ("numbers", "positions", "oxidation_states")}
    _answer(store, asked, -179.9)
    _answer(store, replace(asked, **rows, orbital="ab"), -180.0)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert (row["orbital"], row["energy_ev"]) == ("ab", pytest.approx(-180.0))


def test_a_seed_of_another_host_that_nobody_asked_for_is_passed_over(host, rule, pending, tmp_path):
    plan, store = plan_pending(pending, host, SETTINGS), Store(tmp_path / "store")
    asked, *_ = plan[GIVEN]
    longer = {f"cell_{end}": 1.001 * getattr(host, f"cell_{end}") for end in ("full", "empty")}
    foreign = relaxation_of(host.parse(GIVEN), _edited(rule, **longer), SETTINGS, LEVEL)
    _answer(store, asked, -179.9)
    _answer(store, replace(foreign, state_key=asked.state_key, orbital="b"), -190.0)
    row = energies(pending, plan, store, tmp_path).set_index("asked_key").loc[GIVEN]
    assert (row["orbital"], row["energy_ev"]) == ("a", pytest.approx(-179.9))


def test_composition_and_cell_of_what_is_asked_for_are_those_of_its_key(host, tmp_path):
    path = tmp_path / "pending.csv"
    path.write_text(f"state_key\n{GIVEN}\n")
    plan = plan_pending(path, host, SETTINGS)
    [row] = energies(path, plan, Store(tmp_path / "store"), tmp_path).to_dict("records")
    assert (row["x"], row["n_occupied"], row["cell"]) == (0.5, 2, "1x1x1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"state_key,x\n{GIVEN},0.25\n", f"x of {GIVEN} is 0.5, not 0.25; correct it"),
        (f"state_key,x\n{GIVEN},abc\n", f"x of {GIVEN} is 0.5, not nan; correct it"),
        (f"state_key,x,n_occupied\n{GIVEN},0.5,1\n", f"n_occupied of {GIVEN} is 2, not 1; correct it"),
        ("state_key\n12\n", "is no key of an arrangement"),
        (f'state_key,x\n"{GIVEN},0.5\n', r"is no table \(.*\); run the searches again"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", r"is no table \(.*\); run the searches again"),
        (None, r"is no table \(.*\); run the searches again"),
    ],
)
def test_a_list_that_is_wrong_is_one_line(host, tmp_path, content, message):
    path = tmp_path / "pending.csv"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as error:
        plan_pending(path, host, SETTINGS)
    assert "\n" not in str(error.value)
