"""`dft-converge`: which single points tell, and what is said of a level that does not stand."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from invented_hosts import olivine, rule_of
from samples import LEVEL

from workflow_lib.core.errors import UserError
from workflow_lib.dft.basis_error import basis_slope
from workflow_lib.dft.level import Level
from workflow_lib.dft.level_choice import level_table
from workflow_lib.dft.store import Store
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.host_file import HostFile
from workflow_lib.lattice.make_host import make_host
from workflow_lib.stages.dft.converge import finer, judge, level_jobs, structures
from workflow_lib.stages.dft.settings import DftSettings

SETTINGS = DftSettings(level=Level(cutoff=600.0, kpoints=(1, 2, 2), shifted=True))


def test_what_a_level_is_held_against():
    assert finer(SETTINGS.level).energy_reference.endswith("/PW700/2x3x3 shifted")
    assert finer(LEVEL).energy_reference.endswith("/PW600/2x2x2 shifted")


def test_no_mesh_is_held_against_its_own_points():
    """Along no vector: an error of the mesh there would not be seen."""
    for kpoints, shifted in product(product((1, 2, 3), repeat=3), (False, True)):
        if shifted and all(points % 2 for points in kpoints):
            continue  # no such level
        reference = finer(Level(cutoff=600.0, kpoints=kpoints, shifted=shifted))
        assert all(more > points for more, points in zip(reference.kpoints, kpoints, strict=True))
        assert Level.model_validate(reference.model_dump()) == reference


def test_ends_and_two_orders_on_the_same_ions_are_computed(host):
    empty, full, one, other = structures(host)
    assert (len(empty.occupied), len(full.occupied)) == (0, 4)
    assert one.occupied == other.occupied
    assert one.reduced != other.reduced
    jobs = level_jobs(host, SETTINGS, finer(SETTINGS.level))
    assert len({job.digest for job in jobs}) == len(jobs) == 17
    coarse, fine = jobs[:8], jobs[8:16]
    assert [job.provenance["density"] for job in fine] == [job.digest for job in coarse]
    assert np.linalg.det(jobs[1].cell) == pytest.approx(1.02**3 * np.linalg.det(jobs[0].cell))


def test_a_cell_with_too_many_orders_is_refused_before_they_are_listed(host):
    """A host described by a supercell was listed for hours, without a word."""
    large, repeat = host.full_cell(1.0).repeat((1, 2, 2)), olivine("Na", "P", (2, 3))
    described = make_host(large, mobile="Na", redox="Fe", oxidation_states=(2, 3))
    with pytest.raises(UserError, match=r"165636900 charge orders half way.*smaller cell"):
        structures(Host(described, repeat.rule))


def trirutile() -> Host:
    """LiFe2F6, of mixed valence where it is full."""
    from ase.spacegroup import crystal

    atoms = crystal(
        ["Li", "Fe", "F", "F"],
        [(0, 0, 0), (0, 0, 0.333), (0.303, 0.303, 0), (0.303, 0.303, 0.333)],
        spacegroup=136,
        cellpar=[4.67, 4.67, 9.28, 90, 90, 90],
    )
    cell, scaled = atoms.cell[:].tolist(), atoms.get_scaled_positions().tolist()
    described = {
        **{"name": "LiFe2F6", "mobile": "Li", "redox": "Fe", "oxidation_states": (2, 3)},
        **{"formula_units": 2, "numbers": atoms.numbers.tolist()},
        **{"cell_full": cell, "cell_empty": cell, "scaled_full": scaled, "scaled_empty": scaled},
    }
    return Host(HostFile.model_validate(described), rule_of("Fe", 2, 3, {"Li": 1, "F": -1}))


def computed(host, store, error, settings=SETTINGS):
    """Answers of an engine whose formation energies at the coarse level are off by ``error`` eV."""
    for job in level_jobs(host, settings, finer(settings.level)):
        if store.get(job).status == "done":
            continue
        x = StateKey.parse(job.state_key).x
        energy = -40.0 - 10 * x + (error * x * (1 - x) * 4 if job.level == settings.level else 0.1 * x)
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


@pytest.mark.parametrize(
    "made",
    [lambda: olivine("Na", "P", (2, 3)), lambda: olivine("Na", "Si", (3, 4)), trirutile],
    ids=["2+ and 3+", "3+ and 4+", "a full end of mixed valence"],
)
def test_the_error_of_a_formation_energy_is_told_for_any_couple(made, tmp_path):
    """The ends are off by amounts of their own; only what is not linear in the ions counts."""
    host, reference, store = made(), finer(SETTINGS.level), Store(tmp_path)
    computed(host, store, -0.01)
    records = [store.get(job) for job in level_jobs(host, SETTINGS, reference)]
    empty, full = (records[number].calculation.group for number in (0, 2))
    table = level_table(records, reference, empty=empty, full=full)
    mine = table[table["cutoff_ev"] == SETTINGS.level.cutoff]
    assert sorted(set(mine["x"])) == [0.0, 0.5, 1.0]
    between = mine[mine["x"] == 0.5]
    assert len(between) == 4
    np.testing.assert_allclose(between["formation_error_mev_fu"], -10.0, atol=1e-6)


def test_the_basis_error_is_known_when_the_level_is_judged(host, tmp_path):
    store = Store(tmp_path)
    computed(host, store, 0.0)
    assert basis_slope(store.records(), SETTINGS.level) is not None


def test_the_point_of_a_basis_error_is_one_of_the_next_level(host, tmp_path, monkeypatch):
    """Who raises the cut-off as told asks for it again: its errors count in that level's table."""
    monkeypatch.setattr("workflow_lib.stages.dft.converge.level_figure", lambda *_: None)
    store = Store(tmp_path)
    computed(host, store, 0.0)
    level = SETTINGS.level.model_copy(update={"cutoff": 700.0})
    again = SETTINGS.model_copy(update={"level": level})
    asked = level_jobs(host, again, finer(level))
    assert sum(store.get(job).status == "done" for job in asked) == 1
    computed(host, store, 0.0, again)
    # What was computed first lies 0.1 eV off what the engine says now: 50 meV half way, unstrained alone.
    with pytest.raises(UserError, match=r"formation_error_mev_fu 50\.00"):
        judge(host, again, finer(level), store, tmp_path)
    table = pd.read_csv(tmp_path / "level.csv").query("cutoff_ev == 700 and x == 0.5")
    assert len(table) == 4 and table["formation_error_mev_fu"].notna().all()


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
