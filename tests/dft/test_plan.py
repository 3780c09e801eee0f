"""Pending arrangements become calculations."""

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from ase.dft.kpoints import monkhorst_pack
from invented_hosts import magnesium_phosphate, magnesium_silicate, two_sodium
from pending_states import GIVEN, OPEN, SETTINGS
from samples import HOST, LEVEL

from workflow_lib.core.errors import UserError
from workflow_lib.dft.jobs import read_jobs, write_jobs
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.ewald import electrostatic_order, ewald_energy
from workflow_lib.lattice.host import Host
from workflow_lib.stages.dft.plan import (
    end_members,
    energies,
    missing,
    plan_pending,
    with_moments,
)
from workflow_lib.stages.dft.settings import DftSettings


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


def test_moments_are_judged_by_the_windows_of_the_redox_rule_at_every_mesh(rule, pending):
    """A couple that the engine does not know could only be added in the source."""
    windows = {"Fe2": (3.4, 3.8), "Fe3": (4.0, 4.4)}
    states = tuple(
        state.model_copy(update={"magmom": {LEVEL.energy_reference: windows[f"Fe{state.oxidation}"]}})
        for state in rule.states
    )
    given = Host.load(HOST, rule.model_copy(update={"states": states}))
    ends = end_members(given, SETTINGS, (1, 3, 1))
    assert all(job.windows == windows for job in (*ends, *plan_pending(pending, given, SETTINGS)[GIVEN]))
    other = SETTINGS.model_copy(update={"level": Level(cutoff=650.0, kpoints=(1, 1, 1))})
    assert not end_members(given, other, (1, 1, 1))[0].windows  # the rule has none there: the known ones


def test_ions_outside_the_couple_have_their_moments_too(host):
    """VASP was given a total spin without theirs, and GPAW started them without any."""
    numbers, none = np.where(host.numbers == 15, 23, host.numbers), np.zeros(28, dtype=int)
    vanadium = numbers == 23
    charges = {"Na": 1, "O": -2}
    assert not with_moments(numbers, none, charges | {"V": 5}).any()  # V5+ has no d electron
    assert (with_moments(numbers, none, charges | {"V": 3}) == np.where(vanadium, 3, 0)).all()
    iron = np.where(host.numbers == 26, 2, 0)
    assert (with_moments(numbers, iron, charges | {"V": 3}) == np.where(vanadium, 3, iron)).all()
    assert (with_moments(host.numbers, iron, host.rule.formal_charges) == iron).all()


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
