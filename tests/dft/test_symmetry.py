"""The operations a charge-ordered structure keeps, and relaxations that keep them."""

from dataclasses import replace

import numpy as np
import pytest
from ase.stress import voigt_6_to_full_3x3_stress

from campaigns.naxfepo4_gpaw.diagonal import SAME_LATTICE
from workflow_lib.dft.engines.gpaw.start import symmetry_input
from workflow_lib.dft.symmetry import (
    EXACT,
    KeepOperations,
    Operations,
    labels,
    operations,
    symmetrised,
    unknown_grid,
)
from workflow_lib.lattice.host import Arrangement


@pytest.fixture
def made(host, half):
    """A calculation of an undistorted arrangement; all Fe are equivalent in the host's Pnma."""

    def make(occupied, reduced, **changes):
        atoms = host.build(Arrangement((1, 1, 1), occupied, reduced))
        return replace(
            half,
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell[:],
            oxidation_states=atoms.get_array("oxidation_states"),
            **changes,
        )

    return make


def test_charge_order_and_orbital_lower_the_symmetry_of_the_ions(made):
    assert len(operations(made((), ()))) == 8
    assert len(operations(made((0, 1, 2, 3), (0, 1, 2, 3)))) == 8
    assert 1 < len(operations(made((0, 3), (0, 2)))) < 8
    assert len(operations(made((0, 1, 2, 3), (0, 1, 2, 3), orbital="aaab"))) < 8
    mixed = made((0, 3), (0, 2))
    for images in operations(mixed).maps:
        assert (np.array(labels(mixed))[images] == labels(mixed)).all()
    magnetic = mixed.level.model_copy(update={"magnetism": "antiferromagnetic"})
    assert len(operations(replace(mixed, level=magnetic))) == 1


def test_noise_is_averaged_away(made):
    whole = made((0, 1, 2, 3), (0, 1, 2, 3))
    rng = np.random.default_rng(3)
    noisy = replace(
        whole,
        positions=whole.positions + rng.normal(0, 0.003, whole.positions.shape),
        cell=whole.cell + rng.normal(0, 0.002, (3, 3)),
    )
    assert len(operations(noisy)) < 8
    clean = symmetrised(noisy, 0.05)
    assert len(operations(clean, 1e-6)) == 8
    assert np.abs(clean.positions - noisy.positions).max() < 0.03
    assert np.linalg.det(clean.cell) == pytest.approx(np.linalg.det(noisy.cell), rel=1e-4)


@pytest.mark.parametrize("shift", [1e-3, 3e-3, 4.9e-3])
def test_operations_belong_to_the_atoms_wherever_the_crystal_lies(shift, made):
    """Moved along a vector by less than 1/24 too: a translation is a fraction of the cell only at home."""
    whole = made((), ())
    moved = replace(whole, positions=whole.positions + shift * whole.cell.sum(0))
    assert len(operations(moved)) == len(operations(whole)) == 8
    assert len(operations(moved).of(moved.positions, moved.cell, EXACT)) == 8
    assert len(operations(whole).on_grid((72, 42, 36))) == 8
    # Where its centres are at no grid point it has none on the grid but the identity.
    assert len(operations(moved).on_grid((72, 42, 36))) == 1


def check_on_grid(group, size):
    """Images of grid points are grid points, and those whose numbers GPAW computes."""
    points = np.indices(size).reshape(3, -1)[:, ::97].T
    for rotation, shift in zip(group.rotations, group.translations, strict=True):
        images = (points / size @ rotation.T + shift) * size
        np.testing.assert_allclose(images, np.round(images), atol=1e-9)
        by_number = points @ rotation.T + np.round(shift * size)
        np.testing.assert_allclose((by_number - images) % size % (np.array(size) - 1e-9), 0, atol=1e-8)


def test_operations_that_mix_vectors_need_as_many_points_along_both(made):
    """Another cell of the same lattice, a + b, b, c: half of the operations mix the first two."""
    whole = made((0, 1, 2, 3), (0, 1, 2, 3))
    sheared = replace(whole, cell=SAME_LATTICE @ whole.cell)
    group = operations(sheared)
    assert len(group) == 8
    for size, order in {(80, 40, 32): 4, (48, 48, 32): 8, (80, 42, 32): 4}.items():
        check_on_grid(group.on_grid(size), size)
        assert len(group.on_grid(size)) == order


def test_where_gpaw_chooses_the_grid_no_operation_mixes_vectors_of_unlike_length(made):
    """At levels that are not shifted these passed, and GPAW's own check lets 80 and 40 points pass."""
    whole = made((0, 1, 2, 3), (0, 1, 2, 3))
    assert len(operations(whole).on_grid(unknown_grid(whole.cell))) == 8
    sheared = replace(whole, cell=SAME_LATTICE @ whole.cell)
    chosen = symmetry_input(operations(sheared), sheared.cell, None, steered=True)
    assert len(chosen["rotations"]) == 4
    hexagonal = np.array([[2.9, 0, 0], [-1.45, 2.9 * 0.75**0.5, 0], [0, 0, 16.0]])
    assert unknown_grid(hexagonal) == (24, 24, 48)
    assert symmetry_input(operations(whole), hexagonal, None, steered=False) == {"point_group": True}
    doubled = hexagonal * [[2], [1], [1]]
    assert symmetry_input(operations(whole), doubled, None, steered=False) == {"point_group": False}


def test_operations_map_the_k_points_onto_each_other(made):
    """The mesh of three along b alone is no mesh of the lattice: half of the operations do not have it."""
    whole = made((0, 1, 2, 3), (0, 1, 2, 3))
    for cell, kpoints, order in (
        (whole.cell, (1, 2, 2), 8),
        (whole.cell, (1, 3, 2), 8),
        (SAME_LATTICE @ whole.cell, (1, 3, 2), 4),
        (SAME_LATTICE @ whole.cell, (2, 2, 2), 8),
    ):
        level = whole.level.model_copy(update={"kpoints": kpoints, "shifted": True})
        group = operations(replace(whole, cell=cell)).on_mesh(level)
        assert len(group) == order
        points = {tuple(np.round(24 * k).astype(int) % 24) for k in level.mesh()}
        for rotation in group.rotations:
            turned = level.mesh() @ np.linalg.inv(rotation)
            assert {tuple(np.round(24 * k).astype(int) % 24) for k in turned} == points


def test_the_operations_of_a_grid_map_it_onto_itself_and_are_a_group(made):
    group = operations(made((0, 1, 2, 3), (0, 1, 2, 3)))
    for size, order in {(72, 42, 36): 8, (72, 42, 35): 4, (71, 42, 36): 4, (71, 41, 35): 2}.items():
        there = group.on_grid(size)
        check_on_grid(there, size)
        assert len(there) == order
    turns = np.array([np.eye(3), [[0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    square = Operations(turns, np.zeros((2, 3)), np.zeros((2, 1)))
    # A quarter turn alone is no group, and none of a grid with unlike axes.
    assert len(square.on_grid((8, 8, 8))) == len(square.on_grid((8, 6, 8))) == 1


def test_a_series_has_what_all_its_geometries_have(made):
    whole = made((), ())
    stretched = whole.cell * [[1.02], [1], [1]]
    scaled = np.linalg.solve(whole.cell.T, whole.positions.T).T
    series = np.array([whole.positions, scaled @ stretched])
    cells = np.array([whole.cell, stretched])
    assert len(operations(replace(whole, task="series", series=series, series_cells=cells))) == 8
    series[1, 0] += 0.1
    assert len(operations(replace(whole, task="series", series=series, series_cells=cells))) == 1


def test_a_relaxation_keeps_the_operations(made):
    """Steps, strains, forces and stress without symmetry come out with it."""
    whole = made((), ())
    group = operations(whole)
    atoms = whole.atoms()
    atoms.set_constraint(KeepOperations(group))
    rng = np.random.default_rng(4)
    atoms.set_cell(atoms.cell[:] + rng.normal(0, 0.02, (3, 3)), scale_atoms=True)
    atoms.set_positions(atoms.positions + rng.normal(0, 0.05, (len(atoms), 3)))
    assert np.abs(atoms.positions - whole.positions).max() > 0.01
    assert np.abs(atoms.cell[:] - whole.cell).max() > 1e-3
    moved = replace(whole, positions=atoms.positions, cell=atoms.cell[:])
    assert len(operations(moved, 1e-6)) == 8

    stress = rng.normal(size=6)
    atoms.constraints[0].adjust_stress(atoms, stress)
    np.testing.assert_allclose(stress[3:], 0, atol=1e-12)
    forces = rng.normal(size=(len(atoms), 3))
    atoms.constraints[0].adjust_forces(atoms, forces)
    np.testing.assert_allclose(group.of_vectors(forces, atoms.cell[:]), forces, atol=1e-10)
    full = voigt_6_to_full_3x3_stress(stress)
    np.testing.assert_allclose(group.of_tensor(full, atoms.cell[:]), full, atol=1e-10)
