"""Kept densities, and relaxations that go on after an interruption; nothing here runs GPAW."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import Bohr, GPa, Ha

from campaigns.naxfepo4_gpaw.diagonal import SAME_LATTICE
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.gpaw import engine as gpaw_engine
from workflow_lib.dft.engines.gpaw import hessian, tasks
from workflow_lib.dft.engines.gpaw.start import even_grid, keep, kept, resampled, symmetry_input
from workflow_lib.dft.level import EMBEDDED
from workflow_lib.dft.store import Store
from workflow_lib.dft.symmetry import Operations, operations


def test_a_function_that_both_grids_hold_is_carried_exactly():
    def wave(shape):
        x, y, z = np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij")
        return 2 + np.cos(2 * np.pi * (2 * x - y)) + 0.5 * np.sin(2 * np.pi * (x + 3 * z))

    small, large = (8, 6, 9), (12, 10, 14)
    np.testing.assert_allclose(resampled(wave(small), large), wave(large), atol=1e-12)
    np.testing.assert_allclose(resampled(wave(large), small), wave(small), atol=1e-12)


def test_a_density_is_kept_for_its_own_charge_order_only(half, tmp_path):
    grid = SimpleNamespace(data=np.ones((2, 4, 4, 4)))
    matrices = SimpleNamespace(data=np.arange(6.0).reshape(2, 3))
    density = SimpleNamespace(nt_sR=grid, nct_R=SimpleNamespace(data=0.25), D_asii=matrices)
    path = tmp_path / "density" / "x.npz"
    assert kept(path, half) is None
    keep(path, half, SimpleNamespace(density=density), half.atoms(), {3: (np.eye(5), 0.02 * np.eye(4))})
    found = kept(path, replace(half, positions=half.positions + 0.01))
    np.testing.assert_array_equal(found["valence"], 0.75)
    np.testing.assert_array_equal(found["matrices"], matrices.data)
    assert found["sites"].tolist() == [3]
    np.testing.assert_array_equal(found["resistances"], [0.02 * np.eye(4)])
    other = half.oxidation_states.copy()
    iron = np.flatnonzero(half.numbers == 26)
    other[iron] = other[iron][::-1] if (other[iron] != other[iron][::-1]).any() else np.roll(other[iron], 1)
    assert kept(path, replace(half, oxidation_states=other)) is None
    assert kept(path, replace(half, orbital="b")) is None
    magnetic = replace(half, level=half.level.model_copy(update={"magnetism": "antiferromagnetic"}))
    assert kept(path, magnetic) is None
    # Atoms moved and a cell strained as in relaxations, and another cell of the same lattice.
    strained = replace(half, cell=1.02 * half.cell, positions=1.02 * half.positions + 0.3)
    assert kept(path, strained) is not None
    assert kept(path, replace(half, cell=SAME_LATTICE @ half.cell)) is None
    with np.load(path) as content:
        np.savez(path, **{name: content[name] for name in content if name != "magnetism"})
    assert kept(path, half) is not None and kept(path, magnetic) is None
    path.write_bytes(path.read_bytes()[:100])
    assert kept(path, half) is None


def test_a_calculation_knows_where_to_look_for_a_density(half, tmp_path):
    half = replace(half, provenance={"start": "s", "density": "d"})
    engine = gpaw_engine.SteeredGPAW(half, None, None, tmp_path)
    assert [path.stem for path in engine._densities()] == [half.digest, "d", "s"]
    assert gpaw_engine.SteeredGPAW(half, None, None)._densities() == []


def test_grids_are_even_and_as_fine_as_those_of_gpaw():
    pytest.importorskip("gpaw", reason="run make dft-setup")
    from gpaw.utilities.gpts import get_number_of_grid_points

    for edges in ((9.913, 5.914, 4.86), (10.24, 6.1065, 4.939), (10.61, 6.31, 5.02)):
        cell = np.diag(edges)
        for cutoff in (500.0, 800.0, 900.0):
            mode = SimpleNamespace(name="pw", ecut=cutoff / Ha)
            theirs = get_number_of_grid_points(cell / Bohr, mode=mode, realspace=False)
            ours = np.array(even_grid(cell, cutoff))
            assert (ours % 2 == 0).all()
            assert ((theirs <= ours) & (ours <= 1.1 * theirs)).all()
            assert (ours[theirs % 2 == 0] == theirs[theirs % 2 == 0]).all()


def test_operations_are_told_in_the_convention_of_gpaw(half):
    """r_c U + t = r_c of the image, row vectors; GPAW itself checks them so."""
    group = operations(half)
    told = symmetry_input(group, half.cell, (70, 40, 36), steered=True)
    scaled = np.linalg.solve(half.cell.T, half.positions.T).T
    assert len(group) > 1
    for u, shift, images in zip(told["rotations"], told["translations"], told["atommaps"], strict=True):
        off = scaled @ u + shift - scaled[images]
        np.testing.assert_allclose(off - np.round(off), 0, atol=1e-4)
    assert symmetry_input(group, half.cell, None, steered=False) == {"point_group": True}


def test_gpaw_looks_for_operations_itself_only_where_the_grid_has_those_of_the_cell(half):
    for grid, all_of_them in (((20, 20, 20), True), ((20, 20, 18), False)):
        told = symmetry_input(operations(half), 4.2 * np.eye(3), grid, steered=False)
        assert told == {"point_group": all_of_them}


def test_gpaw_is_told_no_operation_that_the_grid_does_not_have(half):
    """A quarter of 70 points lies between two, a half does not."""
    quarter = np.eye(3, dtype=int)[None].repeat(4, 0) * [[[1]], [[-1]], [[1]], [[-1]]]
    shifts = np.array([[0, 0, 0], [0, 0, 0.25], [0, 0, 0.5], [0, 0, 0.75]])
    group = Operations(quarter, shifts, np.zeros((4, 1), dtype=int))
    for points, kept_shifts in ((70, [0, 0.5]), (72, [0, 0.25, 0.5, 0.75])):
        told = symmetry_input(group, half.cell, (70, 40, points), steered=True)
        assert told["translations"][:, 2].tolist() == kept_shifts
    assert symmetry_input(group, half.cell, (70, 40, 35), steered=True) == {"point_group": False}


class Logging(Calculator):
    """EMT in the place of GPAW: writes the log as the engine does, and can be killed."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self, log, lives: int) -> None:
        super().__init__()
        self.log, self.lives = log, lives

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1
        plain = Atoms(self.atoms.numbers, positions=self.atoms.positions, cell=self.atoms.cell, pbc=True)
        plain.calc = EMT()
        self.results = {
            "energy": plain.get_potential_energy(),
            "forces": plain.get_forces(),
            "stress": plain.get_stress(),
        }
        self.log.frame(
            {
                "positions": plain.positions.tolist(),
                "cell": plain.cell[:].tolist(),
                "energy": self.results["energy"],
                "forces": self.results["forces"].tolist(),
                "stress": voigt_6_to_full_3x3_stress(self.results["stress"]).tolist(),
            }
        )


def relax(calculation, store, lives):
    with store.writing(calculation) as log:
        atoms = calculation.atoms()
        atoms.calc = Logging(log, lives)
        assert tasks._relax(atoms, calculation, log)
    return store.get(calculation).frames


@pytest.mark.parametrize("task", ["cell", "relaxation"])
def test_an_interrupted_relaxation_goes_on_as_if_nothing_had_happened(task, tmp_path, monkeypatch):
    monkeypatch.setattr(hessian, "model_hessian", lambda what: 20.0 * np.eye(what.get_positions().size))
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.rattle(0.1, seed=2)
    atoms.set_cell(atoms.cell[:] @ [[1.01, 0.02, 0], [0, 1, 0], [0, 0, 1]], scale_atoms=True)
    calculation = Calculation(
        name="copper",
        group="copper",
        kind="test",
        task=task,
        numbers=atoms.numbers,
        positions=atoms.positions,
        cell=atoms.cell[:],
        oxidation_states=np.zeros(4, dtype=int),
        level=EMBEDDED,
        formula_units=1,
        unsteered=True,
    )
    whole = relax(calculation, Store(tmp_path / "whole"), 200)
    assert len(whole) > 5
    interrupted = Store(tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        relax(calculation, interrupted, 4)
    assert len(interrupted.get(calculation).frames) == 4
    again = relax(calculation, interrupted, 200)
    assert len(again) == len(whole)
    for one, other in zip(whole, again, strict=True):
        np.testing.assert_allclose(other["positions"], one["positions"], atol=1e-7)
        np.testing.assert_allclose(other["cell"], one["cell"], atol=1e-7)
    last = whole[-1]
    assert np.linalg.norm(last["forces"], axis=1).max() < calculation.fmax
    if task == "cell":
        assert np.abs(last["stress"]).max() < tasks.MAX_STRESS
        assert pytest.approx(0.2 * GPa) == tasks.MAX_STRESS
    else:
        np.testing.assert_array_equal(last["cell"], atoms.cell[:])
