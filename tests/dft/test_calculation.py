"""Requests to DFT: their keys, and what is refused before a calculation starts."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import (
    describe,
    lost,
    realised_states,
    require_steerable,
    starting_signs,
)
from workflow_lib.dft.jobs import run_jobs
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.stages.dft.settings import DftSettings

FORMAL = {"Na": 1, "P": 5, "O": -2}

LEVEL = Level(cutoff=500.0, kpoints=(1, 1, 1))


@pytest.fixture
def half(host) -> Calculation:
    arrangement = Arrangement((1, 1, 1), (0, 3), (0, 2))
    atoms = host.build(arrangement)
    return Calculation(
        name="half",
        group="half",
        kind="single",
        task="single",
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=atoms.get_array("oxidation_states"),
        level=LEVEL,
        formula_units=4,
        state_key=host.key(arrangement),
    )


def changed(calculation: Calculation, **changes) -> Calculation:
    return Calculation.from_json(calculation.to_json() | changes)


def test_a_calculation_survives_its_json(half):
    assert half.to_json() == changed(half).to_json()
    assert changed(half).digest == half.digest


def test_the_key_does_not_depend_on_the_order_of_atoms_or_on_periodic_images(half):
    order = np.random.default_rng(0).permutation(len(half))
    shifted = half.positions.copy()
    shifted[3] += half.cell[1] - 2 * half.cell[0]
    other = changed(
        half,
        numbers=half.numbers[order].tolist(),
        positions=shifted[order].tolist(),
        oxidation_states=half.oxidation_states[order].tolist(),
    )
    assert other.digest == half.digest


def test_equivalent_starts_of_a_relaxation_share_a_key(half):
    relaxation = changed(half, task="relaxation")
    moved = changed(half, task="relaxation", positions=(half.positions + 0.03).tolist())
    assert relaxation.digest == moved.digest
    assert changed(half, positions=(half.positions + 0.03).tolist()).digest != half.digest


@pytest.mark.parametrize(
    "change",
    [
        {"orbital": "b"},
        {"task": "relaxation"},
        {"unsteered": True},
        {"level": Level(cutoff=600, kpoints=(1, 1, 1)).model_dump()},
        {"level": Level(cutoff=500.0, kpoints=(1, 3, 1)).model_dump()},
        {"level": Level(cutoff=500.0, kpoints=(1, 2, 2), shifted=True).model_dump()},
        {"level": LEVEL.model_copy(update={"hubbard_u": {"Fe": 4.0}}).model_dump()},
        {"level": LEVEL.model_copy(update={"magnetism": "antiferromagnetic"}).model_dump()},
    ],
)
def test_whatever_changes_the_energy_changes_the_key(half, change):
    assert changed(half, **change).digest != half.digest


def test_the_charge_order_is_part_of_the_key(half):
    states = half.oxidation_states.copy()
    iron = np.flatnonzero(half.numbers == 26)
    states[iron] = [2, 3, 3, 2]
    assert changed(half, oxidation_states=states.tolist()).digest != half.digest


def test_levels_have_telling_names_and_differ_in_all_settings():
    assert LEVEL.energy_reference == "GPAW/PBE+U(Co 3.32, Fe 5.3, Mn 3.9, Ni 6.2)/PW500/Gamma"
    assert Level(cutoff=500.0, kpoints=(1, 2, 2)).energy_reference.endswith("/PW500/1x2x2")
    wide = LEVEL.model_copy(update={"width": 0.1})
    assert wide.digest != LEVEL.digest
    # Smearing moves energies of metals and small gaps; the usual width has the name it always had.
    assert wide.energy_reference == f"{LEVEL.energy_reference}/width 0.1"
    with pytest.raises(ValueError, match="1 to 1000 points"):
        Level(cutoff=500.0, kpoints=(0, 1, 1))


def test_a_shifted_mesh_is_another_level_and_an_old_level_keeps_its_checksum():
    plain, shifted = (
        Level(cutoff=800, kpoints=(1, 2, 2)),
        Level(cutoff=800, kpoints=(1, 2, 2), shifted=True),
    )
    assert shifted.energy_reference.endswith("/PW800/1x2x2 shifted")
    assert plain.energy_reference.endswith("/PW800/1x2x2")
    assert plain.digest != shifted.digest
    # What a store of before this setting was filed under.
    assert LEVEL.digest.startswith("9f370297fac4")
    with pytest.raises(ValueError, match="a shift does not move it"):
        Level(cutoff=500.0, kpoints=(1, 3, 1), shifted=True)


def test_each_geometry_of_a_series_may_have_its_cell(half):
    series = [half.positions.tolist(), (1.01 * half.positions).tolist()]
    cells = [half.cell.tolist(), (1.01 * half.cell).tolist()]
    plain = changed(half, task="series", series=series)
    strained = changed(half, task="series", series=series, series_cells=cells)
    assert strained.digest != plain.digest
    np.testing.assert_allclose(changed(strained).series_cells, cells)
    strained.check(FORMAL)
    with pytest.raises(UserError, match="one cell for each geometry"):
        changed(strained, series_cells=cells[:1]).check(FORMAL)


def test_a_sound_request_passes(half):
    half.check(FORMAL)


def test_a_charge_assignment_that_is_not_neutral_is_refused(half):
    states = half.oxidation_states.copy()
    states[np.flatnonzero(half.numbers == 26)] = 3
    with pytest.raises(UserError, match=r"\+2 e on the cell; it must be neutral"):
        changed(half, oxidation_states=states.tolist()).check(FORMAL)


def test_an_impossible_ion_is_refused(half):
    states = half.oxidation_states.copy()
    states[np.flatnonzero(half.numbers == 15)[0]] = 5
    with pytest.raises(UserError, match="P has no 3d shell"):
        changed(half, oxidation_states=states.tolist()).check(FORMAL)


def test_a_site_without_a_wanted_state_is_refused(half):
    states = half.oxidation_states.copy()
    states[np.flatnonzero(half.numbers == 26)[0]] = 0
    with pytest.raises(UserError, match=r"Fe .* has no oxidation state"):
        changed(half, oxidation_states=states.tolist()).check(FORMAL)


def test_overlapping_atoms_are_refused_by_name_and_distance(half):
    positions = half.positions.copy()
    positions[-1] = positions[-2] + [0.3, 0, 0]
    with pytest.raises(UserError, match=r"\(O\) and 25 \(O\) are 0.30 A apart"):
        changed(half, positions=positions.tolist()).check(FORMAL)


def test_an_ion_without_formal_charge_is_refused(half):
    with pytest.raises(UserError, match="no formal charge for P"):
        half.check({"Na": 1, "O": -2})


@pytest.mark.parametrize("field", ["numbers", "level", "task"])
def test_an_incomplete_job_is_one_line(half, field):
    content = half.to_json()
    del content[field]
    with pytest.raises(UserError, match="dft-plan"):
        Calculation.from_json(content)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"task": "series"}, "task series needs the geometries"),
        ({"task": "series", "series": []}, "task series needs the geometries"),
        ({"task": "cell", "stress": False}, "task cell needs stress"),
    ],
)
def test_a_task_without_what_it_works_on_is_one_line(half, wrong, why):
    with pytest.raises(UserError, match=why):
        changed(half, **wrong)


def test_charge_states_are_read_from_moments_and_never_forced(half, frames):
    frame = next(f for f in frames if f.state_key == half.state_key)
    request = changed(
        half, positions=frame.positions.tolist(), oxidation_states=frame.oxidation_states.tolist()
    )
    assert (realised_states(request, frame.magmoms) == frame.oxidation_states).all()
    blurred = np.where(frame.numbers == 26, 3.95, frame.magmoms)
    assert (realised_states(request, blurred)[frame.numbers == 26] == -1).all()
    assert describe(request, realised_states(request, blurred)) == "Fe ? ? ? ?"


def test_windows_of_the_redox_rule_stand_for_another_couple(half):
    manganese = np.where(half.numbers == 26, 25, half.numbers)
    windows = {"Mn2": (4.3, 4.8), "Mn3": (3.6, 4.1)}
    request = replace(half, numbers=manganese, windows=windows)
    require_steerable(request)
    assert request.digest == replace(request, windows={}).digest  # the store files both as one
    moments = np.where(half.oxidation_states == 2, 4.5, np.where(half.oxidation_states == 3, -3.8, 0.0))
    assert (realised_states(request, moments) == half.oxidation_states).all()
    assert (realised_states(request, moments * 0.9)[half.oxidation_states == 2] == 3).all()  # 4.05: Mn3+
    assert Calculation.from_json(json.loads(json.dumps(request.to_json()))).windows == windows
    narrow = replace(half, windows={"Fe2": (3.7, 3.8)})  # Fe3 keeps the known one
    fe = np.where(half.oxidation_states == 2, 3.6, np.where(half.oxidation_states == 3, 4.3, 0.0))
    assert sorted(set(realised_states(narrow, fe))) == [-1, 0, 3]


def test_windows_of_a_couple_come_before_known_ones_that_they_overlap(half):
    """Every calculation with Fe4+ ended after hours: its moments fit the known window of Fe2+, too."""
    states = np.where(half.oxidation_states == 2, 4, half.oxidation_states)
    request = replace(half, oxidation_states=states, windows={"Fe3": (4.1, 4.5), "Fe4": (3.2, 3.9)})
    moments = np.where(states == 4, 3.6, np.where(states == 3, 4.3, 0.0))
    assert (realised_states(request, moments) == states).all()
    assert lost(request, moments) is None
    blurred = np.where(states == 4, 4.0, moments)
    assert set(realised_states(request, blurred)[states == 4]) == {-1}


@pytest.mark.parametrize("window", [(3.1, 2.6), (-1.0, 3.0), (2.6, np.inf)])
def test_a_window_that_no_moment_can_meet_is_refused(half, window):
    with pytest.raises(UserError, match=r"no DFT calculation: windows.*the smaller one first"):
        Calculation.from_json(half.to_json() | {"windows": {"Cr3": list(window)}})
    with pytest.raises(ValidationError, match="the smaller one first"):
        DftSettings(windows={"Cr3": window})


def test_vasp_needs_no_crystal_field(half):
    """It is given no orbitals, so ions without ligands that are known here are its own affair."""
    chloride = replace(half, numbers=np.where(half.numbers == 8, 17, half.numbers))
    with pytest.raises(UserError, match="ligands within"):
        require_steerable(chloride)
    require_steerable(replace(chloride, level=LEVEL.model_copy(update={"code": "VASP"})))


def test_a_window_of_low_spin_is_refused(half):
    """Steered to high spin, such an ion failed after hours as collapsed."""
    with pytest.raises(UserError, match=r"ends at 0.4 muB, and with 5 unpaired .* low-spin ones cannot"):
        require_steerable(replace(half, windows={"Fe3": (0.0, 0.4)}))


def test_an_antiferromagnet_has_as_many_moments_up_as_down(half):
    level = LEVEL.model_copy(update={"magnetism": "antiferromagnetic"})
    require_steerable(replace(half, level=level))
    three = np.where(np.arange(len(half)) == np.flatnonzero(half.numbers == 26)[0], 12, half.numbers)
    states = np.where(three == 26, half.oxidation_states, 0)
    with pytest.raises(UserError, match="2 would be up and 1 down"):
        require_steerable(replace(half, numbers=three, oxidation_states=states, level=level))


def test_a_small_moment_tells_no_magnetic_order(half):
    windows = {"Fe2": (3.5, 3.9), "Fe3": (0.0, 3.4)}
    level = LEVEL.model_copy(update={"magnetism": "antiferromagnetic"})
    request = replace(half, level=level, windows=windows)
    signs = starting_signs(request)
    small = signs * np.where(half.oxidation_states == 2, 3.7, -0.01)
    assert lost(request, small) is None
    assert "signs" in lost(request, signs * np.where(half.oxidation_states == 2, 3.7, -0.6))


def test_orbital_seeds_stand_for_all_sites_or_for_each_with_a_choice(half):
    first, second = np.flatnonzero(half.oxidation_states == 2)
    assert set(half.seeds().values()) == {"a"}
    seeds = changed(half, orbital="ab").seeds()
    assert (seeds[first], seeds[second]) == ("a", "b")
    assert all(seeds[site] == "a" for site in np.flatnonzero(half.oxidation_states == 3))
    with pytest.raises(UserError, match="one letter, or 2"):
        changed(half, orbital="abc").check(FORMAL)


@pytest.mark.parametrize(
    ("symbol", "code", "said"),
    [
        ("V", "GPAW", "V2.*no Hubbard U.*add V to dft.level.hubbard_u"),
        ("Cr", "VASP", "Cr2.*no Hubbard U.*add Cr to dft.level.hubbard_u"),
        ("Mn", "GPAW", "Mn3.*no known window of GPAW moments .*Fe2, Fe3, Mn2.*redox.states.*magmom"),
        ("Mn", "VASP", "Mn[23].*no known window of VASP moments"),
    ],
)
def test_an_ion_that_no_engine_can_hold_is_named_before_it_runs(half, tmp_path, symbol, code, said):
    level = LEVEL.model_copy(update={"code": code})
    numbers = np.where(half.numbers == 26, SYMBOLS.index(symbol), half.numbers)
    other = changed(half, numbers=numbers.tolist(), level=level.model_dump())
    with pytest.raises(UserError, match=said):
        run_jobs([half, other], Store(tmp_path), formal_charges=FORMAL)
    assert not list(tmp_path.iterdir())
    free = changed(other, unsteered=True)
    require_steerable(free)  # nothing is to be held
    with Store(tmp_path).writing(other) as log:
        log.end("done")
    assert run_jobs([other], Store(tmp_path), formal_charges=FORMAL).known == [other.name]


@pytest.mark.parametrize(
    "changes",
    [
        {"hubbard_u": {"Fe": -5.3}},
        {"hubbard_u": {"Fe": 1e9}},
        {"cutoff": 1e12},
        {"width": 1e6},
        {"kpoints": (10**7, 1, 1)},
    ],
)
def test_a_level_that_none_can_mean_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        Level(**({"cutoff": 800.0, "kpoints": (1, 2, 2)} | changes))
