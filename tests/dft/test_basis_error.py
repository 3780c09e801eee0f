"""Unequal cells at a fixed cut-off: when it is said, in numbers, and when it need not be."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from workflow_lib.dft.basis_error import basis_slope, basis_warnings, plane_waves
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.jobs import run_jobs
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store

CUTOFFS = (300.0, 400.0, 500.0)


def single(cell, cutoff, sodium=0, strain=0.0):
    numbers = np.array([26, 9, 9, 9, *[11] * sodium])  # FeF3 with Na
    return Calculation(
        name=f"{sodium} {cutoff}",
        group=f"Na{sodium}",
        kind="level",
        task="single",
        numbers=numbers,
        positions=np.arange(len(numbers))[:, None] * np.array([1.0, 1.0, 1.0]),
        cell=np.eye(3) * cell * (1 + strain),
        oxidation_states=np.array([3 - sodium, 0, 0, 0, *[0] * sodium]),
        level=Level(cutoff=cutoff, kpoints=(1, 1, 1)),
        formula_units=1,
    )


def answered(store, calculation, energy):
    with store.writing(calculation) as log:
        log.frame({"energy": energy, "forces": np.zeros((len(calculation), 3)).tolist()})
        log.end("done")


@pytest.fixture
def store(tmp_path):
    """Energies proportional to the logarithm of the ideal number of plane waves, 2 eV a unit."""
    store = Store(tmp_path)
    for cutoff in CUTOFFS:
        answered(store, single(5.0, cutoff), -2.0 * 1.5 * np.log(cutoff))
    return store


@pytest.mark.parametrize("cutoff", CUTOFFS[:2])
def test_the_slope_is_that_of_the_energies(store, cutoff):
    level = Level(cutoff=cutoff, kpoints=(1, 1, 1))
    assert basis_slope(store.records(), level) == pytest.approx(-2.0, rel=1e-9)


def test_the_slope_is_a_formula_unit_s_and_that_of_the_next_cutoff(tmp_path):
    """Energies flatten with the cut-off, so a farther one makes the slope look smaller than it is."""
    store = Store(tmp_path)
    for cutoff, energy in ((300.0, 0.0), (400.0, -1.0), (500.0, -1.1)):
        answered(store, replace(single(5.0, cutoff), formula_units=2), energy)
    expected = -1.0 / 2 / (1.5 * np.log(400 / 300))
    assert basis_slope(store.records(), Level(cutoff=300.0, kpoints=(1, 1, 1))) == pytest.approx(expected)


def test_of_several_structures_the_steepest_slope_counts(store):
    """What is said of the error is a lower bound; two charge states of one geometry are two structures."""
    for cutoff in CUTOFFS:
        answered(store, single(5.2, cutoff), -1.0 * 1.5 * np.log(cutoff))
        other = replace(single(5.0, cutoff), oxidation_states=np.array([2, 0, 0, 0]))
        answered(store, other, -3.0 * 1.5 * np.log(cutoff) - 7.0)
    assert basis_slope(store.records(), Level(cutoff=300.0, kpoints=(1, 1, 1))) == pytest.approx(-3.0)


def test_without_a_higher_cutoff_of_one_mesh_nothing_is_known(store):
    assert basis_slope(store.records(), Level(cutoff=500.0, kpoints=(1, 1, 1))) is None
    finer = single(5.0, 600.0)
    answered(store, replace(finer, level=Level(cutoff=600.0, kpoints=(2, 2, 2))), -30.0)
    assert basis_slope(store.records(), Level(cutoff=500.0, kpoints=(1, 1, 1))) is None
    assert basis_slope(store.records(), Level(cutoff=300.0, kpoints=(2, 2, 2))) == pytest.approx(-2.0)


def test_the_error_is_slope_times_spread(store):
    jobs = [single(5.0, 300.0), single(5.37, 300.0, sodium=1)]
    counts = [plane_waves(job.cell, job.level) for job in jobs]
    spread = abs(counts[0][0] / counts[0][1] - counts[1][0] / counts[1][1])
    (line,) = basis_warnings(jobs, store.records())
    assert f"at least {2000 * spread:.1f} meV per formula unit" in line
    assert 2000 * spread > 3.0


def test_one_composition_needs_no_warning(store):
    assert basis_warnings([single(5.0, 300.0), single(5.37, 300.0)], store.records()) == []


def test_an_unknown_slope_is_said_when_jobs_are_run(store, caplog):
    jobs = [single(5.0, 500.0), single(5.4, 500.0, sodium=1)]
    for job in jobs:
        answered(store, job, -1.0)
    with caplog.at_level(logging.WARNING):
        tally = run_jobs(jobs, store, formal_charges={"Na": 1, "F": -1})
    assert len(tally.known) == 2
    assert "not known: see dft-converge" in caplog.text
