"""What foreign numbers mean: unit of stress, sign of charges, surrogate species, duplicates."""

from __future__ import annotations

import copy
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from samples import RULE

from workflow_lib.core.errors import UserError
from workflow_lib.frames.foreign import read_frames, write_frames
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.reading.duplicates import (
    TOLERANCE,
    Entry,
    candidates,
    find_duplicates,
    fingerprints,
    match_atoms,
    same_answer,
)
from workflow_lib.frames.reading.part import ReadSettings
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.reading.understand import orient_charges, recognise_surrogates, stress_unit
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.redox import RedoxRule

NA, FE, GA = 11, 26, 31


def read(tmp_path, files="*.extxyz", **settings) -> tuple[list[Frame], dict]:
    summary = read_sources([str(tmp_path / files)], tmp_path / "out", ReadSettings(**settings))
    return read_parquet(tmp_path / "out/frames.parquet"), summary


@pytest.mark.parametrize(
    ("largest", "unit", "sure"),
    [
        ([1e-5, 3e-3], "eV/A^3", True),
        ([0.1, 0.4], "eV/A^3", False),
        ([0.4, 8.0], "GPa", False),
        ([100.0, 900.0], "kbar", False),
        ([1e4, 1e5], None, False),
    ],
)
def test_unit_of_stress_by_magnitude(largest, unit, sure):
    verdict = stress_unit(np.array(largest), None)
    assert (verdict.unit, verdict.sure, verdict.decided_by) == (unit, sure, "magnitude")


def test_one_wild_frame_does_not_change_the_unit():
    assert stress_unit(np.array([1e-3] * 500 + [40.0]), None).unit == "eV/A^3"
    assert stress_unit(np.array([0.01]), "GPa").decided_by == "caller"
    assert stress_unit(np.array([]), None) is None


@pytest.mark.parametrize(("stated", "told"), [(None, "magnitude"), ("GPa", "caller")])
def test_stress_in_gpa_file_by_file(frames, tmp_path, stated, told):
    gpa = [with_labels(frame, stress=frame.stress * 160.21766208) for frame in frames[:10]]
    write_frames(gpa, tmp_path / "a.extxyz")
    if stated is None:
        write_frames(frames[10:20], tmp_path / "b.extxyz")
    found, summary = read(tmp_path, stress_unit=stated)
    for one, two in zip(found, frames, strict=False):
        np.testing.assert_allclose(one.stress, two.stress, rtol=1e-9)
    stress = [file["stress"] for file in summary["files"]]
    assert [s["unit"] for s in stress] == ["GPa", "eV/A^3"][: len(stress)]
    assert stress[0]["decided_by"] == told
    assert any("taken to be GPa" in line for line in summary["statements"]) == (stated is None)


@pytest.mark.parametrize("suffix", ["extxyz", "parquet"])
def test_wild_stress_is_left_out_and_the_frame_kept(frames, tmp_path, suffix):
    some = [with_labels(frame, stress=None) if i == 3 else frame for i, frame in enumerate(frames[:130])]
    some[5] = with_labels(some[5], stress=np.eye(3) * 50)
    write_frames(some, tmp_path / f"a.{suffix}")
    found, summary = read(tmp_path, f"*.{suffix}")
    assert [i for i, frame in enumerate(found) if frame.stress is None] == [3, 5]
    np.testing.assert_allclose(found[6].stress, frames[6].stress)
    assert any("left out in 1 frames" in line for line in summary["statements"])


def test_a_table_with_stress_in_another_unit_is_refused(frames, tmp_path):
    """Its smallest ones stayed, and were taken for eV/A^3."""
    gpa = [with_labels(frame, stress=frame.stress * 160.21766208) for frame in frames[:10]]
    write_parquet(gpa, tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: stress of .* cannot be eV/A\^3, .*divide GPa by 160"):
        read(tmp_path, "a.parquet")


def test_sodium_decides_without_oxygen(frames):
    """Na in a sulfide with charges counted as electrons more: they were taken as they stood."""
    sulfide = [
        with_labels(frame, numbers=np.where(frame.numbers == 8, 16, frame.numbers), charges=-frame.charges)
        for frame in frames[55:58]
    ]
    assert orient_charges(sulfide) == {"charges_turned": 3}


def test_signs_of_charges(frames):
    some = [with_labels(frame, charges=-frame.charges) for frame in frames[55:65]]
    some[0].charges = None
    some[1].charges = -some[1].charges
    some.append(with_labels(frames[0], charges=-frames[0].charges))  # without Na: O decides
    assert NA not in frames[0].numbers
    assert orient_charges(some) == {"charges_turned": 9}
    for frame in some[1:]:
        assert frame.charges[frame.numbers == 8].mean() < 0
        if NA in frame.numbers:
            assert frame.charges[frame.numbers == NA].mean() == pytest.approx(0.87, abs=0.03)


@pytest.mark.parametrize(
    ("symbols", "charges", "turned"),
    [
        ("LiTiS2", [0.9, 1.5, -1.2, -1.2], True),
        ("LiFeF3", [0.9, 1.2, -0.7, -0.7, -0.7], True),
        ("LiVOF", [0.9, 1.1, -1.1, -0.9], True),
        ("Mg2Si", [1.0, 1.0, -2.0], False),
    ],
)
def test_the_anion_decides_where_there_is_no_sodium(tmp_path, caplog, symbols, charges, turned):
    """Only oxygen did, so the charges of a sulfide or a fluoride kept the sign that a file gave them."""
    atoms = Atoms(symbols, positions=np.eye(3)[0] * np.arange(len(charges))[:, None] * 2.5)
    atoms.set_cell(np.eye(3) * 20)
    atoms.pbc = True
    atoms.info["REF_energy"] = -20.0
    atoms.arrays["bader_charge"] = -np.array(charges)
    ase.io.write(tmp_path / "a.extxyz", atoms)
    found, summary = read(tmp_path)
    (direct,) = read_frames(tmp_path / "a.extxyz")
    sign = 1 if turned else -1
    for frame in (*found, direct):
        np.testing.assert_allclose(frame.charges, sign * np.array(charges), atol=1e-6)
    told = [line for line in [*summary["statements"], caplog.text] if "tells the sign" in line]
    assert len(told) == (0 if turned else 2)
    assert summary["files"][0]["counts"].get("charges_turned", 0) == turned


VALENCE = {11: 7, 26: 8, 15: 5, 8: 6}  # electrons of VASP's potentials Na_pv, Fe, P and O


def test_electron_counts_are_refused_with_and_without_sodium(frames):
    """What a column of Bader electrons holds, ZVAL minus the charge, of either sign, is no charge."""
    some = frames[::40]
    assert {NA in frame.numbers for frame in some} == {True, False}
    for sign in (1, -1):
        counts = [
            with_labels(f, charges=sign * (np.array([VALENCE[z] for z in f.numbers.tolist()]) - f.charges))
            for f in some
        ]
        assert orient_charges(counts) == {"charges_refused": len(some)}
        assert all(frame.charges is None for frame in counts)


def test_adjusted_charges_are_still_charges(frames):
    """The public sets have P at +5, whatever the other ions have, and some of them the other sign."""
    some = [frame for frame in frames[::40] if frame.charges is not None]
    adjusted = [with_labels(f, charges=-np.where(f.numbers == 15, 5.0, f.charges)) for f in some]
    assert max(abs(frame.charges.sum()) for frame in adjusted) > 1
    assert orient_charges(adjusted) == {"charges_turned": len(some)}


def labelled(frame: Frame) -> Frame:
    """The frame as 31812499 has it: Ga stands where Fe3+ is, moments and all."""
    numbers = frame.numbers.copy()
    numbers[frame.oxidation_states == 3] = GA
    return with_labels(frame, numbers=numbers, oxidation_states=None, state_key=None)


def mixed(frames) -> list[Frame]:
    return [frame for frame in frames if {2, 3} <= set(frame.oxidation_states.tolist())][:6]


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_gallium_with_the_moment_of_iron_is_iron(frames, rule, tmp_path, mode):
    originals = mixed(frames)
    write_frames([labelled(frame) for frame in originals], tmp_path / "a.extxyz")
    text = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(text.replace("group=", "x=").replace("formula_units=", "y="))
    found, summary = read(tmp_path, rule=rule, surrogates=mode)
    for one, two in zip(found, originals, strict=True):
        np.testing.assert_array_equal(one.numbers, two.numbers)
        np.testing.assert_array_equal(one.oxidation_states, two.oxidation_states)
        assert one.formula_units == 4
        assert "Ga" not in one.group
    assert summary["files"][0]["counts"]["surrogates_turned"] == len(originals)
    assert "Ga" not in summary["elements"]
    assert any("surrogate species; turned back" in line for line in summary["statements"])


def test_gallium_proper_stays(frames, rule):
    (one, two, three) = (labelled(frame) for frame in mixed(frames)[:3])
    one.magmoms = np.where(one.numbers == GA, 0.01, one.magmoms)
    two.magmoms = None
    three.magmoms = np.where(three.numbers == GA, 1.0, three.magmoms)
    before = [frame.numbers.copy() for frame in (one, two, three)]
    counts = recognise_surrogates([one, two, three], rule, "auto")
    assert counts == {"surrogates_kept": 1, "surrogates_unsure": 2}
    for frame, numbers in zip((one, two, three), before, strict=True):
        np.testing.assert_array_equal(frame.numbers, numbers)
        assert frame.oxidation_states is None
    assert recognise_surrogates([labelled(mixed(frames)[0])], rule, "never") == {}


def test_a_moment_is_no_evidence_for_a_surrogate_that_has_one_itself(frames):
    raw = copy.deepcopy(RULE)
    raw["states"][1]["surrogate"] = "Mn"
    del raw["formal_charges"]["Mn"]
    empty = next(frame for frame in frames if NA not in frame.numbers)
    numbers = np.where(empty.numbers == FE, 25, empty.numbers)
    frame = with_labels(empty, numbers=numbers.copy())
    assert np.abs(frame.magmoms[numbers == 25]).min() > 2
    assert recognise_surrogates([frame], RedoxRule.model_validate(raw), "auto") == {"surrogates_unsure": 1}
    np.testing.assert_array_equal(frame.numbers, numbers)


def test_states_that_are_not_neutral_are_never_forced(frames, rule):
    frame = labelled(mixed(frames)[0])
    frame.numbers[np.flatnonzero(frame.numbers == GA)[0]] = FE
    counts = recognise_surrogates([frame], rule, "auto")
    assert counts["surrogates_not_neutral"] == 1
    assert frame.oxidation_states is None
    assert GA not in frame.numbers


def test_always_labels_frames_without_a_surrogate(frames, rule):
    full = next(frame for frame in frames if set(frame.oxidation_states.tolist()) == {0, 2})
    frame = with_labels(full, oxidation_states=None)
    recognise_surrogates([frame], rule, "auto")
    assert frame.oxidation_states is None
    recognise_surrogates([frame], rule, "always")
    np.testing.assert_array_equal(frame.oxidation_states, full.oxidation_states)


def variant(frame: Frame, rng, *, noise=0.0, shuffle=False, image=False) -> Frame:
    positions = frame.positions + rng.uniform(-noise, noise, frame.positions.shape)
    if image:
        positions = positions + rng.integers(-1, 2, positions.shape) @ frame.cell
    order = rng.permutation(len(frame)) if shuffle else np.arange(len(frame))
    labels = {
        name: getattr(frame, name)[order]
        for name in ("forces", "magmoms", "charges", "oxidation_states")
        if getattr(frame, name) is not None
    }
    return with_labels(frame, numbers=frame.numbers[order], positions=positions[order], **labels)


def entry(frame: Frame) -> Entry:
    return Entry(
        frame.numbers,
        frame.positions,
        frame.cell,
        frame.energy,
        frame.magmoms,
        frame.oxidation_states,
        frame.magnetic_order,
    )


def same_geometry(one: Entry, two: Entry) -> bool:
    return match_atoms(one, two) is not None


def repeats(one: Frame, two: Frame) -> bool:
    atoms = match_atoms(entry(one), entry(two))
    return atoms is not None and same_answer(entry(one), entry(two), atoms)


def test_the_same_geometry(frames):
    rng = np.random.default_rng(0)
    for frame in frames[::20]:
        near = variant(frame, rng, noise=0.9e-4, shuffle=True, image=True)
        atoms = match_atoms(entry(frame), entry(near))
        assert atoms is not None
        np.testing.assert_array_equal(near.magmoms[atoms], frame.magmoms)
        assert not same_geometry(entry(frame), entry(variant(frame, rng, noise=1e-3, shuffle=True)))
        stretched = entry(with_labels(frame, cell=frame.cell * 1.0001))
        assert not same_geometry(entry(frame), stretched)
        swapped = frame.numbers.copy()
        swapped[[0, -1]] = swapped[[-1, 0]]
        assert not same_geometry(entry(frame), entry(with_labels(frame, numbers=swapped)))


def test_no_pair_within_the_tolerance_is_missed(frames):
    rng = np.random.default_rng(1)
    some = frames[::8]
    near = [variant(frame, rng, noise=TOLERANCE, shuffle=True, image=True) for frame in some]
    shifted = [with_labels(frame, cell=frame.cell + rng.uniform(-9e-5, 9e-5, (3, 3))) for frame in some]
    everything = [*some, *near, *shifted]
    groups = candidates(*fingerprints(everything))
    together = {(int(a), int(b)) for group in groups for a in group for b in group}
    n = len(some)
    assert all((i, n + i) in together and (i, 2 * n + i) in together for i in range(n))
    # What is not the same is hardly ever compared.
    assert sum(len(group) for group in groups) <= len(everything)
    assert max(len(group) for group in groups) <= 12


def test_duplicates_agree_with_comparing_all_pairs(frames):
    rng = np.random.default_rng(2)
    pool = [*frames[:40], *(variant(frame, rng, shuffle=True) for frame in frames[10:25]), *frames[30:40]]
    pool += [variant(frame, rng, noise=5e-4) for frame in frames[:10]]
    keys, prints = fingerprints(pool)
    sizes = np.array([len(frame) for frame in pool])
    found = find_duplicates(
        keys, prints, sizes, lambda rows: {int(r): entry(pool[r]) for r in rows}
    ).repeats
    expected: dict[int, int] = {}
    for row, frame in enumerate(pool):
        for other in range(row):
            if other not in expected and repeats(pool[other], frame):
                expected[row] = other
                break
    assert found == expected
    assert len(found) >= 25


def test_another_level_of_theory_is_no_duplicate(frames):
    keys, _ = fingerprints([frames[0], with_labels(frames[0], energy_reference="other")])
    assert keys[0] != keys[1]


def test_duplicates_across_files_are_listed_and_the_first_kept(frames, tmp_path):
    rng = np.random.default_rng(3)
    write_frames(frames[:20], tmp_path / "a.extxyz")
    again = [variant(frame, rng, shuffle=True) for frame in frames[15:25]]
    again = [with_labels(frame, frame_id=f"again-{i}", energy=frame.energy + 1e-3)
             for i, frame in enumerate(again)]  # fmt: skip
    write_frames(again, tmp_path / "b.extxyz")
    write_frames(frames[24:26], tmp_path / "c.extxyz")
    found, summary = read(tmp_path)
    assert summary["frames_read"] == 32
    assert summary["duplicates"] == 6
    ids = [frame.frame_id for frame in found]
    assert ids == [*(f.frame_id for f in frames[:20]), *(f"again-{i}" for i in range(5, 10)),
                   frames[25].frame_id]  # fmt: skip
    table = pd.read_csv(tmp_path / "out/duplicates.csv")
    assert table["frame_id"].tolist() == [*(f"again-{i}" for i in range(5)), frames[24].frame_id]
    assert table["same_as"].tolist() == [*(f.frame_id for f in frames[15:20]), "again-9"]
    np.testing.assert_allclose(table["energy_difference_ev"], [1e-3] * 5 + [-1e-3], atol=1e-9)


CASES = Path(__file__).parent / "cases/duplicates"


@pytest.mark.parametrize("name", ["charge_orders", "fm_afm_x100_s0"])
def test_two_orders_on_the_same_atoms_both_stay(tmp_path, name):
    summary = read_sources([str(CASES / f"{name}.extxyz")], tmp_path / "out")
    assert (summary["frames"], summary["duplicates"]) == (2, 0)
    assert any("1 frames share their geometry" in line for line in summary["statements"])


def other_answers(frame: Frame) -> dict[str, Frame]:
    """Frames on the atoms of this one that are other calculations."""
    iron = np.flatnonzero(frame.numbers == FE)
    low, high = (iron[frame.oxidation_states[iron] == state][0] for state in (2, 3))
    swapped, moments = frame.oxidation_states.copy(), frame.magmoms.copy()
    swapped[[low, high]] = swapped[[high, low]]
    moments[[low, high]] = moments[[high, low]]
    turned, another = frame.magmoms.copy(), frame.magmoms.copy()
    turned[iron[:2]] *= -1
    another[iron[[0, 2]]] *= -1
    return {
        "energy": with_labels(frame, energy=frame.energy + 2e-4 * len(frame)),
        "states alone": with_labels(frame, magmoms=None, oxidation_states=swapped),
        "moments alone": with_labels(frame, magmoms=moments, oxidation_states=None),
        "antiferromagnetic": with_labels(frame, magmoms=turned),
        "another pattern": with_labels(frame, magmoms=another),
        "stated order": with_labels(frame, magmoms=None, magnetic_order="AFM"),
    }


def test_another_charge_order_magnetic_order_or_energy_is_no_duplicate(frames):
    rng = np.random.default_rng(5)
    frame = mixed(frames)[0]
    others = other_answers(frame)
    for name, other in others.items():
        assert not repeats(frame, variant(other, rng, shuffle=True)), name
        assert repeats(other, variant(other, rng, shuffle=True)), name
    assert not repeats(others["antiferromagnetic"], others["another pattern"])
    # The same state with every moment turned, and without labels, is the same calculation.
    assert repeats(frame, with_labels(frame, magmoms=-frame.magmoms))
    assert repeats(frame, with_labels(frame, magmoms=None, oxidation_states=None, magnetic_order=None))


def test_of_duplicates_the_best_labelled_stays(frames, tmp_path):
    """A last ionic step that repeats the one before holds the only moments."""
    bare = [
        with_labels(f, frame_id=f"bare-{i}", magmoms=None, oxidation_states=None, charges=None)
        for i, f in enumerate(frames[:3])
    ]
    write_frames([*bare, *frames[:3]], tmp_path / "a.extxyz")
    found, summary = read(tmp_path)
    assert [frame.frame_id for frame in found] == [frame.frame_id for frame in frames[:3]]
    assert all(frame.magmoms is not None for frame in found)
    assert summary["duplicates"] == 3


def test_repeated_ids_are_numbered(frames, tmp_path):
    some = [with_labels(frame, frame_id="same") for frame in frames[:3]]
    write_frames(some, tmp_path / "a.extxyz")
    found, summary = read(tmp_path)
    assert [frame.frame_id for frame in found] == ["same", "same~2", "same~3"]
    assert any("2 frame ids" in line for line in summary["statements"])
