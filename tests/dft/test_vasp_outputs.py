"""Results of VASP on real files of silicon (see the README of ``vasp_files``): units, signs, the level."""

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from invented_vasp import REAL, moments_of, outcar_text, vasprun_text
from pymatgen.io.vasp.inputs import Kpoints

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.engines.vasp.engine import collect, compute
from workflow_lib.dft.engines.vasp.inputs import read_card, write_inputs
from workflow_lib.dft.engines.vasp.outputs import read_run
from workflow_lib.dft.level import Level
from workflow_lib.dft.store import Store
from workflow_lib.frames.reading.vasp import energy, read_outcar_labels, read_vasprun, stress

KBAR = 1602.1766208  # per eV/A^3


KEYS = {
    "positions", "cell", "energy", "forces", "stress", "magmoms", "charges", "states", "orbitals",
    "scf_iterations", "seconds", "cpu_seconds",
}  # fmt: skip
"""What gpaw_engine hands to the log."""


def test_energy_is_the_one_for_zero_width_where_vasp_5_writes_another():
    """OUTCAR of the same run: 'energy(sigma->0)' of its five ionic steps."""
    steps = read_vasprun(REAL / "si-relax/vasprun.xml.gz").ionic_steps
    found = [energy(step) for step in steps]
    assert found == pytest.approx(
        [-6.50161629, -2.5404464, -3.97390482, -8.48283896, -10.53701997], abs=1e-8
    )
    assert steps[0]["e_0_energy"] == pytest.approx(-0.00106059)  # why the correction is needed


def test_energy_agrees_with_outcar_in_vasp_6():
    step = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps[-1]
    outcar = read_outcar_labels(REAL / "si-spin/OUTCAR.gz")
    assert energy(step) == pytest.approx(outcar.final_energy, abs=1e-8)


def test_stress_is_in_ev_per_cubic_angstrom_with_the_sign_of_tension():
    """OUTCAR says 'FORCE on cell =-STRESS ... Total 2.64685 eV' and 'external pressure = 285.96 kB'."""
    steps = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps
    volumes = [step["structure"].volume for step in steps]
    first = stress(steps[0])
    np.testing.assert_allclose(first, np.eye(3) * -2.64685 / volumes[0], atol=1e-6)
    assert np.trace(first) / 3 == pytest.approx(-285.96 / KBAR, rel=1e-5)
    # The run relaxes its cell: it grows for as long as the stress is negative, and less as it falls.
    traces = [float(np.trace(stress(step))) for step in steps]
    assert all(trace < 0 for trace in traces[:-1])
    assert (np.diff(volumes) > 0).all()
    assert (np.diff(traces) > 0).all()


def test_stress_is_the_slope_of_the_energy_over_the_volume():
    """dE/dV = trace / 3, integrated with the trapezoidal rule between the third and the fourth step."""
    third, fourth = read_vasprun(REAL / "si-spin/vasprun.xml.gz").ionic_steps[2:4]
    step = fourth["structure"].volume - third["structure"].volume
    mean = (np.trace(stress(third)) + np.trace(stress(fourth))) / 6
    assert energy(fourth) - energy(third) == pytest.approx(mean * step, rel=0.2)


def test_off_diagonal_stress_keeps_its_place():
    step = read_vasprun(REAL / "si-relax/vasprun.xml.gz").ionic_steps[0]
    np.testing.assert_allclose(
        stress(step)[0] * -KBAR, [13.3799082, -198.81086995, 161.62424081], rtol=1e-9
    )


def test_a_file_cut_short_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cut short") as error:
        read_vasprun(REAL / "si-killed/vasprun.xml.gz")
    assert "\n" not in str(error.value)
    content = gzip.decompress((REAL / "si-spin/OUTCAR.gz").read_bytes())
    for size in (100, len(content) // 2, len(content) - 3000):
        (tmp_path / "OUTCAR").write_bytes(content[:size])
        with pytest.raises(UserError, match="cut short"):
            read_outcar_labels(tmp_path / "OUTCAR")


@pytest.mark.parametrize("name", ["vasprun.xml", "OUTCAR.gz"])
def test_a_run_of_ones_own_may_be_made_again(silicon, name):
    """Somebody else's may not: `read` says what is wrong alone."""
    _, folder = silicon
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"cut short.*; wait for VASP, or delete the file to run it again$"):
        read_run(folder, *read_card(folder))


@pytest.fixture
def silicon(tmp_path) -> tuple[Calculation, Path]:
    """The calculation that the real spin-polarised run would have been the answer to.

    Its INCAR lacked LASPH, and fixed the total moment: these two lines are changed in the copy.
    """
    calculation = Calculation(
        name="silicon",
        group="Si",
        kind="relaxation",
        task="relaxation",
        numbers=np.array([14]),
        positions=np.array([[0.195, 0.195, 0.0]]),
        cell=np.array([[1.95, 1.95, 0], [0, 1.95, 1.95], [1.95, 0, 1.95]]),
        oxidation_states=np.array([0]),
        level=Level(code="VASP", cutoff=240, hubbard_u={}, kpoints=(8, 8, 8), width=0.1),
        formula_units=1,
        unsteered=True,
    )
    write_inputs(calculation, tmp_path / "run")
    text = gzip.decompress((REAL / "si-spin/vasprun.xml.gz").read_bytes()).decode()
    text = text.replace(
        '<i name="NUPDOWN">      2.00000000</i>', '<i type="logical" name="LASPH"> T  </i>', 1
    )
    (tmp_path / "run/vasprun.xml").write_text(text)
    shutil.copy(REAL / "si-spin/OUTCAR.gz", tmp_path / "run")
    return calculation, tmp_path / "run"


def test_every_converged_ionic_step_is_a_frame(silicon):
    _, folder = silicon
    run = read_run(folder, *read_card(folder))
    assert run.skipped == [(i, "not self-consistent after 15 iterations") for i in (0, 3)]
    assert [frame["scf_iterations"] for frame in run.frames] == [11, 14, 14]
    assert all(set(frame) == KEYS for frame in run.frames)
    assert [frame["magmoms"] for frame in run.frames] == [None, None, [0.646]]
    assert [frame["states"] for frame in run.frames] == [None, None, [0]]
    assert [frame["seconds"] for frame in run.frames] == [0.4749, 0.5756, 0.5807]
    last = run.frames[-1]
    assert last["energy"] == pytest.approx(-1.97252333)
    assert np.linalg.det(last["cell"]) == pytest.approx(26.56945, rel=1e-6)
    scaled = np.linalg.solve(np.transpose(last["cell"]), last["positions"][0])
    np.testing.assert_allclose(scaled, [0.1, 0, 0], atol=1e-8)  # VASP wrote 1 for 0 in places
    assert np.trace(last["stress"]) / 3 == pytest.approx(-1.02874843 / KBAR)
    assert run.labelled


def test_a_real_run_goes_to_the_store(silicon, tmp_path):
    calculation, folder = silicon
    store = Store(tmp_path / "store")
    with store.writing(calculation) as log:
        compute(calculation, log, folder=folder, command=None)
    record = store.get(calculation)
    assert record.status == "done"  # one atom: no force by symmetry
    assert len(record.frames) == 3
    assert [entry["index"] for entry in record.skipped] == [0, 3]
    assert sum(frame["seconds"] for frame in record.frames) == pytest.approx(0.4749 + 0.5756 + 0.5807)
    with store.writing(calculation) as log:  # read again: nothing is logged twice
        collect(calculation, log, folder)
    record = store.get(calculation)
    assert (len(record.frames), len(record.skipped), record.status) == (3, 2, "done")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cutoff": 520.0}, "ENCUT is 240.0, not 520"),
        ({"width": 0.05}, "SIGMA is 0.1, not 0.05"),
        ({"kpoints": (4, 4, 4)}, "k-mesh is Gamma"),
    ],
)
def test_another_level_than_the_one_asked_for_is_refused(silicon, change, message):
    calculation, folder = silicon
    level = calculation.level.model_copy(update=change)
    other = Calculation.from_json(calculation.to_json() | {"level": level.model_dump()})
    with pytest.raises(UserError, match=message):
        read_run(folder, other, np.array([0]))


@pytest.mark.parametrize("shifted", [False, True])
def test_the_mesh_that_was_written_is_the_one_that_is_read(half, tmp_path, shifted):
    """VASP says in vasprun.xml what KPOINTS asked for."""
    level = half.level.model_copy(update={"kpoints": (1, 2, 2), "shifted": shifted})
    asked = replace(half, task="single", level=level)
    write_inputs(asked, tmp_path)
    mesh = Kpoints.from_file(tmp_path / "KPOINTS")
    assert tuple(mesh.kpts[0]) == level.kpoints
    frame = [asked.positions], [np.zeros((len(asked), 3))], [20]
    for style in ("Gamma", "Monkhorst-Pack"):
        (tmp_path / "vasprun.xml").write_text(vasprun_text(asked, *frame, style))
        (tmp_path / "OUTCAR").write_text(outcar_text(asked, moments_of(asked)))
        if style.startswith(mesh.style.name):
            assert len(read_run(tmp_path, *read_card(tmp_path)).frames) == 1
        else:
            with pytest.raises(UserError, match=f"k-mesh is .*, not {mesh.style.name}"):
                read_run(tmp_path, *read_card(tmp_path))


def test_settings_that_the_level_does_not_ask_for_are_refused(silicon):
    calculation, folder = silicon
    path = folder / "vasprun.xml"
    for line in ('<i type="string" name="METAGGA">R2SCAN</i>', '<i name="NUPDOWN">      2.0</i>'):
        text = path.read_text()
        path.write_text(text.replace("</incar>", f"{line}</incar>", 1))
        with pytest.raises(UserError, match="does not ask for"):
            read_run(folder, calculation, np.array([0]))
        path.write_text(text)


def test_another_structure_than_the_one_asked_for_is_refused(silicon):
    calculation, folder = silicon
    far = Calculation.from_json(
        calculation.to_json() | {"task": "single", "positions": [[0.245, 0.195, 0.0]]}
    )
    with pytest.raises(UserError, match="from the structure"):
        read_run(folder, far, np.array([0]))
    phosphorus = Calculation.from_json(calculation.to_json() | {"numbers": [15]})
    with pytest.raises(UserError, match="potentials PAW_PBE Si, not PAW_PBE P"):
        read_run(folder, phosphorus, np.array([0]))
