"""One crystal in any setting is one crystal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from hypothesis import given, settings
from hypothesis import strategies as st
from other_settings import other_setting

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.locate import locate
from workflow_lib.lattice.setting import bases, factorisations

PMNB = Path(__file__).parent / "pmnb.extxyz"
LABELS = "oxidation_states"


def test_the_setting_of_the_materials_project(host):
    """Axes permuted as Pmnb has them, with a shifted origin: a charge-ordered x = 1/2."""
    atoms = read(PMNB)
    assert host.key(host.locate(atoms, atoms.arrays[LABELS])) == "1x1x1:Na1001:Fe2323"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    repeat=st.sampled_from([(1, 1, 1), (1, 3, 1), (2, 1, 1), (1, 1, 2), (2, 2, 1)]),
    data=st.data(),
)
def test_any_setting_is_recognised(host, seed, repeat, data):
    rng = np.random.default_rng(seed)
    number = data.draw(st.integers(0, host.n_mobile(repeat)))
    wanted = host.random(repeat, number, charges=True, rng=rng)
    atoms = host.build(wanted, polaron_distortion=0.06)
    atoms.rattle(0.08, seed=seed)
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + rng.uniform(-0.015, 0.015, (3, 3))), scale_atoms=True)
    host.settings_found.clear()  # each frame is the first of its kind
    moved = other_setting(atoms, rng)
    assert host.key(host.locate(moved, moved.arrays[LABELS])) == host.key(wanted)


def test_many_frames_in_many_settings_are_what_they_are_alone(host):
    rng = np.random.default_rng(4)
    frames, keys = [], []
    for number in range(60):
        wanted = host.random((1, 1, 1), number % 5, charges=True, rng=rng)
        atoms = host.build(wanted, polaron_distortion=0.06)
        atoms.rattle(0.1, seed=number)
        frames.append(other_setting(atoms, rng) if number % 3 else atoms)
        keys.append(host.key(wanted))
    offsets = np.concatenate([[0], np.cumsum([len(atoms) for atoms in frames])])
    found = locate(
        host,
        np.concatenate([atoms.numbers for atoms in frames]),
        offsets,
        np.concatenate([atoms.positions for atoms in frames]),
        np.array([atoms.cell[:] for atoms in frames]),
        np.concatenate([atoms.arrays[LABELS] for atoms in frames]),
    )
    assert [host.key(one) for one in found.arrangements] == keys
    assert found.reasons == [None] * 60


def test_a_near_symmetry_of_the_host_is_no_symmetry(rule):
    """Two Fe at the ends of a nearly square cell: read with a and b exchanged, they would swap."""
    from workflow_lib.lattice.host import Host
    from workflow_lib.lattice.host_file import HostFile

    scaled = [(0, 0, 0), (0.5, 0.5, 0.03), (0.5, 0.02, 0.5), (0.04, 0.5, 0.5), (0.5, 0, 0), (0, 0.48, 0.02)]
    cell = [(4.0, 0, 0), (0, 4.05, 0), (0, 0, 5.0)]
    host = Host(
        HostFile(
            name="nearly tetragonal", mobile="Na", redox="Fe", oxidation_states=(2, 3), formula_units=1,
            numbers=(26, 26, 11, 11, 8, 8), cell_full=cell, cell_empty=cell, scaled_full=scaled,
            scaled_empty=scaled,
        ),
        rule.model_copy(update={"formal_charges": {"Na": 1, "O": -3}}),
    )  # fmt: skip
    assert host.confusable < 0.2
    rng = np.random.default_rng(1)
    for _ in range(20):
        wanted = host.random((1, 1, 1), 1, charges=True, rng=rng)
        atoms = host.build(wanted)
        moved = Atoms(
            atoms.numbers,
            positions=atoms.positions[:, [1, 0, 2]],
            cell=np.array(atoms.cell[:])[[1, 0, 2]][:, [1, 0, 2]],
            pbc=True,
        )
        assert host.key(host.locate(moved, atoms.arrays[LABELS])) == host.key(wanted)


def test_what_fits_no_site_is_told_why(host):
    atoms = host.build(Arrangement((1, 1, 1), (0, 1), (0, 1)))
    moved = atoms.copy()
    moved.positions[10] += [1.6, 0.9, 0.0]
    swapped = atoms.copy()
    swapped.numbers[[4, 6]] = swapped.numbers[[6, 4]]
    other = atoms.copy()
    other.numbers[other.numbers == 15] = 14
    frames = [atoms, moved, swapped, other]
    found = locate(
        host,
        np.concatenate([one.numbers for one in frames]),
        np.arange(5) * len(atoms),
        np.concatenate([one.positions for one in frames]),
        np.array([one.cell[:] for one in frames]),
        None,
    )
    assert [one is None for one in found.arrangements] == [False, True, True, True]
    assert found.copies.tolist() == [1, 1, 1, 0]
    assert found.reasons[0] is None and found.reasons[3] is None
    assert found.reasons[1].startswith("atom 10 (O) is ")
    assert "A from its site in olivine" in found.reasons[2]
    skewed = atoms.copy()
    skewed.set_cell([[6.0, 0, 0], [3.0, 6.0, 0], [0, 0, 8.6]], scale_atoms=True)
    with pytest.raises(UserError, match=r"is no repetition of that of olivine|from its site"):
        host.locate(skewed, None)


@given(st.integers(1, 60))
def test_factorisations_are_all_and_each_once(copies):
    found = list(factorisations(copies))
    assert len(found) == len(set(found))
    assert all(a * b * c == copies for a, b, c in found)
    assert len(found) == sum(
        a * b * c == copies
        for a in range(1, copies + 1)
        for b in range(1, copies // a + 1)
        for c in [copies // (a * b)]
    )


def test_bases_of_a_cubic_cell_are_the_48_of_its_symmetry():
    found = bases(4.0 * np.eye(3), 1, 4.0 * np.eye(3))
    assert len({basis.matrix.tobytes() for basis in found}) == 48
