"""Cells relaxed by VASP: only what was computed with the plane waves of its own cell counts."""

from dataclasses import replace

import numpy as np
import pytest
from invented_vasp import give_potcar, moments_of, outcar_text, vasprun_text

from workflow_lib.dft.engines.vasp import engine
from workflow_lib.dft.engines.vasp.inputs import incar, read_card
from workflow_lib.dft.store import Store


@pytest.fixture
def vasp(monkeypatch):
    """A VASP whose relaxations move all atoms by 0.01 A; it gives single points these stresses (kbar)."""
    stresses: list[float] = []

    def submit(folder, command, symbols):
        asked, _ = read_card(folder)
        (folder / "submitted").write_text(command)
        if command == "queue":
            return
        single = asked.task == "single"
        assert incar(asked)["NSW"] == (0 if single else asked.max_steps)
        geometries = [asked.positions] if single else [asked.positions, asked.positions + 0.01]
        off = stresses.pop(0) if single else 0.0
        forces = [np.zeros((len(asked), 3))] * len(geometries)
        text = vasprun_text(asked, geometries, forces, [9] * len(geometries), stress=(off,) * 3)
        (folder / "vasprun.xml").write_text(text)
        (folder / "OUTCAR").write_text(outcar_text(asked, moments_of(asked)))

    monkeypatch.setattr(engine, "submit", submit)
    return stresses


def relaxed(half, tmp_path, command="run"):
    asked, store = replace(half, task="cell"), Store(tmp_path / "store")
    give_potcar(asked, tmp_path / "run/000")
    with store.writing(asked) as log:
        engine.compute(asked, log, folder=tmp_path / "run", command=command)
    return store.get(asked)


def test_a_cell_is_relaxed_anew_until_its_own_plane_waves_agree(half, tmp_path, vasp):
    vasp += [9.0, 1.0]
    record = relaxed(half, tmp_path)
    assert record.status == "done" and not vasp
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["000", "001", "002", "003"]
    moved = [np.array(frame["positions"]) - half.positions for frame in record.frames]
    np.testing.assert_allclose(moved[0], 0.01, atol=1e-6)
    np.testing.assert_allclose(moved[1], 0.02, atol=1e-6)
    assert all(frame["magmoms"] for frame in record.frames)  # of every frame, not of the last one alone


def test_a_cell_that_never_agrees_has_failed(half, tmp_path, vasp):
    vasp += [9.0] * engine.CELL_ROUNDS
    record = relaxed(half, tmp_path)
    assert record.status == "failed" and "above 0.2 GPa after 4 relaxations" in record.reason


def test_a_cell_in_a_queue_goes_on_where_it_was_left(half, tmp_path, vasp, caplog):
    vasp += [1.0]
    assert relaxed(half, tmp_path, "queue").status == "interrupted"
    assert f"delete {tmp_path / 'run/000/submitted'} and what there is of vasprun.xml" in caplog.text
    assert relaxed(half, tmp_path).status == "interrupted"  # it is still said to be in the queue
    (tmp_path / "run/000/submitted").unlink()
    assert relaxed(half, tmp_path).status == "done"


def test_a_cell_out_of_steps_is_relaxed_again_where_more_are_asked_for(half, tmp_path, vasp):
    vasp += [9.0] * engine.CELL_ROUNDS + [1.0]
    assert relaxed(replace(half, max_steps=20), tmp_path).status == "failed"
    assert relaxed(replace(half, max_steps=20), tmp_path).status == "failed"  # read again, not computed
    assert relaxed(replace(half, max_steps=60), tmp_path).status == "done" and not vasp
    assert len(list((tmp_path / "run-20-steps").iterdir())) == 2 * engine.CELL_ROUNDS
