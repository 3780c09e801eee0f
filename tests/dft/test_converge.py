"""`dft-converge`: which single points tell, and what is said of a level that does not stand."""

import numpy as np
import pytest
from samples import LEVEL

from workflow_lib.core.errors import UserError
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.stages.dft.converge import finer, judge, level_jobs, structures
from workflow_lib.stages.dft.settings import DftSettings

SETTINGS = DftSettings(level=Level(cutoff=600.0, kpoints=(1, 2, 2), shifted=True))


def test_what_a_level_is_held_against():
    assert finer(SETTINGS.level).energy_reference.endswith("/PW700/2x2x2 shifted")
    assert finer(LEVEL).energy_reference.endswith("/PW600/2x2x2 shifted")


def test_ends_and_two_orders_on_the_same_ions_are_computed(host):
    empty, full, one, other = structures(host)
    assert (len(empty.occupied), len(full.occupied)) == (0, 4)
    assert one.occupied == other.occupied
    assert one.reduced != other.reduced
    jobs = level_jobs(host, SETTINGS, finer(SETTINGS.level))
    assert len({job.digest for job in jobs}) == len(jobs) == 16
    coarse, fine = jobs[:8], jobs[8:]
    assert [job.provenance["density"] for job in fine] == [job.digest for job in coarse]
    assert np.linalg.det(jobs[1].cell) == pytest.approx(1.02**3 * np.linalg.det(jobs[0].cell))


def computed(host, store, error):
    """Answers of an engine whose formation energies at the coarse level are off by ``error`` eV."""
    jobs = level_jobs(host, SETTINGS, finer(SETTINGS.level))
    for job in jobs:
        iron = job.oxidation_states[job.oxidation_states > 0]
        x = float((iron == 2).mean())
        energy = -40.0 - 10 * x + (error * x * (1 - x) * 4 if job in jobs[:8] else 0.0)
        with store.writing(job) as log:
            log.frame(
                {
                    "energy": energy * job.formula_units,
                    "positions": job.positions.tolist(),
                    "cell": job.cell.tolist(),
                    "forces": np.zeros((len(job), 3)).tolist(),
                    "stress": np.zeros((3, 3)).tolist(),
                    "scf_iterations": 1,
                    "cpu_seconds": 1.0,
                }
            )
            log.end("done")


def test_a_level_off_in_formation_energies_is_refused_in_numbers(host, tmp_path, monkeypatch):
    monkeypatch.setattr("workflow_lib.stages.dft.converge.level_figure", lambda *_: None)
    good, bad = Store(tmp_path / "good"), Store(tmp_path / "bad")
    computed(host, good, 0.002)
    computed(host, bad, 0.005)
    reference = finer(SETTINGS.level)
    assert judge(host, SETTINGS, reference, good, tmp_path)["stands"].all()
    with pytest.raises(
        UserError, match=r"PW600/1x2x2 shifted is not converged .*formation_error_mev_fu 5.00"
    ):
        judge(host, SETTINGS, reference, bad, tmp_path)
    with pytest.raises(UserError, match="no finished single points"):
        judge(host, replace_level(SETTINGS), reference, Store(tmp_path / "empty"), tmp_path)


def replace_level(settings):
    return settings.model_copy(update={"level": Level(cutoff=650.0, kpoints=(1, 1, 1))})
