"""Charge order and charges in results of VASP, on invented output of NaxFePO4."""

import numpy as np
import pytest
from invented_vasp import (
    acf_text,
    charges_of,
    moments_of,
    outcar_text,
    valences_of,
    vasprun_text,
    write_outputs,
)

from workflow_lib.core.errors import UserError
from workflow_lib.dft.calculation import Calculation
from workflow_lib.dft.charge_state import realised_states
from workflow_lib.dft.engines.vasp.engine import compute
from workflow_lib.dft.engines.vasp.inputs import read_card, write_inputs
from workflow_lib.dft.engines.vasp.outputs import read_run
from workflow_lib.dft.store import Store
from workflow_lib.frames.reading.vasp import bader_charges


def test_results_come_back_in_the_order_of_the_calculation(half, tmp_path):
    write_inputs(half, tmp_path)
    geometries, forces = write_outputs(half, tmp_path)
    run = read_run(tmp_path, *read_card(tmp_path))
    assert run.skipped == [(1, "not self-consistent after 100 iterations")]
    first, last = run.frames
    # Same image as asked for, although the file wraps atoms into the cell.
    np.testing.assert_allclose(first["positions"], geometries[0], atol=1e-6)
    np.testing.assert_allclose(last["positions"], geometries[2], atol=1e-6)
    np.testing.assert_allclose(last["forces"], forces[2], atol=1e-8)
    np.testing.assert_allclose(last["magmoms"], moments_of(half))
    np.testing.assert_allclose(last["charges"], charges_of(half), atol=1e-5)
    np.testing.assert_allclose(last["stress"], np.diag([-10, -20, -30]) / 1602.1766208)  # kbar per eV/A^3
    assert last["states"] == half.oxidation_states.tolist()
    assert (last["energy"], first["orbitals"]) == (-182.0, {})
    assert first["magmoms"] is first["charges"] is first["states"] is None


def outcome(calculation, tmp_path, **outputs):
    write_inputs(calculation, tmp_path / "run")
    write_outputs(calculation, tmp_path / "run", **outputs)
    store = Store(tmp_path / "store")
    with store.writing(calculation) as log:
        compute(calculation, log, folder=tmp_path / "run", command=None)
    return store.get(calculation)


def test_a_relaxation_that_kept_its_charge_order_is_done(half, tmp_path):
    record = outcome(half, tmp_path)
    assert (record.status, record.reason, len(record.frames)) == ("done", None, 2)


def test_a_relaxation_in_another_charge_order_has_failed(half, tmp_path):
    states = half.oxidation_states.copy()
    iron = np.flatnonzero(half.numbers == 26)
    states[iron] = 5 - states[iron]  # all swapped
    states[iron[0]] = 0  # and one without a clear moment
    record = outcome(half, tmp_path, states=states)
    assert record.status == "failed"
    found = " ".join(["?", *(str(state) for state in states[iron[1:]])])
    wanted = " ".join(str(state) for state in half.oxidation_states[iron])
    assert record.reason == f"collapsed to Fe {found} (wanted Fe {wanted})"


def test_forces_that_stay_large_and_a_last_step_that_does_not_converge_fail(half, tmp_path):
    record = outcome(half, tmp_path / "a", last_force=0.1)
    assert (record.status, record.reason) == ("failed", "forces above 0.05 eV/A after 3 steps")
    record = outcome(half, tmp_path / "b", iterations=(20, 30, 100))
    assert (record.status, record.reason) == ("failed", "not self-consistent after 100 iterations")
    assert len(record.frames) == 2
    assert all(frame["magmoms"] is None for frame in record.frames)


def test_a_series_keeps_the_geometries_that_kept_their_charge_order(half, tmp_path):
    series = Calculation.from_json(
        half.to_json()
        | {"task": "series", "series": [(half.positions + off).tolist() for off in (0.0, 0.05, 0.1)]}
    )
    write_inputs(series, tmp_path / "run")
    wrong = np.where(series.oxidation_states > 0, 3, 0)
    for name, states, count in (("000", None, 20), ("001", wrong, 20), ("002", None, 100)):
        geometry = [series.series[int(name)]]
        text = vasprun_text(series, geometry, [np.zeros((len(series), 3))], [count])
        (tmp_path / "run" / name / "vasprun.xml").write_text(text)
        (tmp_path / "run" / name / "OUTCAR").write_text(outcar_text(series, moments_of(series, states)))
    store = Store(tmp_path / "store")
    with store.writing(series) as log:
        compute(series, log, folder=tmp_path / "run", command=None)
    record = store.get(series)
    assert (record.status, len(record.frames)) == ("done", 1)
    wanted = " ".join(str(state) for state in half.oxidation_states[half.numbers == 26])
    assert [(entry["index"], entry["reason"]) for entry in record.skipped] == [
        (1, f"collapsed to Fe 3 3 3 3 (wanted Fe {wanted})"),
        (2, "not self-consistent after 100 iterations"),
    ]


@pytest.mark.parametrize(
    ("moment", "state"),
    [(2.5, -1), (3.77, 2), (-3.79, 2), (3.81, -1), (4.2, -1), (4.3, 3), (4.35, 3), (5.2, -1)],
)
def test_moments_between_the_windows_are_ambiguous(half, moment, state):
    magmoms = np.full(len(half), moment)
    assert set(realised_states(half, magmoms)[half.numbers == 26]) == {state}
    assert set(realised_states(half, magmoms)[half.numbers != 26]) == {0}


@pytest.mark.parametrize("column", ["electrons", "cations positive", "cations negative"])
def test_na_decides_the_sign_of_charges(half, tmp_path, column):
    charges, valences = charges_of(half), valences_of(half)
    values = {"electrons": valences - charges, "cations positive": charges, "cations negative": -charges}
    (tmp_path / "ACF.dat").write_text(acf_text(values[column]))
    found = bader_charges(tmp_path / "ACF.dat", half.numbers, valences)
    np.testing.assert_allclose(found, charges, atol=1e-5)
    assert found[half.numbers == 11].mean() == pytest.approx(0.87)


def test_oxygen_decides_where_there_is_no_na(half, tmp_path):
    kept = half.numbers != 11
    charges, valences = charges_of(half)[kept], valences_of(half)[kept]
    charges[half.numbers[kept] == 8] -= charges.sum() / (half.numbers[kept] == 8).sum()
    (tmp_path / "ACF.dat").write_text(acf_text(-charges))
    found = bader_charges(tmp_path / "ACF.dat", half.numbers[kept], valences)
    np.testing.assert_allclose(found, charges, atol=1e-5)


def test_sulfur_decides_where_there_is_no_oxygen(half, tmp_path):
    kept = half.numbers != 11
    numbers = np.where(half.numbers == 8, 16, half.numbers)[kept]
    charges, valences = charges_of(half)[kept], valences_of(half)[kept]
    charges[numbers == 16] -= charges.sum() / (numbers == 16).sum()
    (tmp_path / "ACF.dat").write_text(acf_text(-charges))
    np.testing.assert_allclose(bader_charges(tmp_path / "ACF.dat", numbers, valences), charges, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda electrons, _: electrons[:-1], "lists 25 atoms of 26"),
        (lambda electrons, _: electrons * 1.1, "chgsum"),
        (lambda electrons, sodium: electrons + 2 * sodium - 2 * sodium[::-1], "Na has -1.13 e"),
    ],
)
def test_charges_that_cannot_be_are_refused(half, tmp_path, spoil, message):
    order = np.argsort(half.numbers != 11, kind="stable")  # both Na first, no Na among the last
    numbers, valences = half.numbers[order], valences_of(half)[order]
    electrons = valences - charges_of(half)[order]
    (tmp_path / "ACF.dat").write_text(acf_text(spoil(electrons, numbers == 11)))
    with pytest.raises(UserError, match=message) as error:
        bader_charges(tmp_path / "ACF.dat", numbers, valences)
    assert "\n" not in str(error.value)
