"""MPtrj's JSON, against pymatgen and the conversions of CHGNet's own reader."""

import json
import tracemalloc

import numpy as np
import pytest
from ase.units import GPa
from pymatgen.core import Lattice, Structure

from workflow_lib.core.errors import UserError
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.table import read_parquet

RAW, CORRECTED = -20.0, -23.5  # eV


def structure(shift: float = 0.0) -> Structure:
    return Structure(
        Lattice.from_parameters(3.1, 4.2, 5.3, 88, 95, 101),
        ["Li", "Fe", "O", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.2 + shift, 0.3, 0.7], [0.75, 0.2, 0.3]],
    )


def entry(**changes) -> dict:
    crystal = changes.pop("crystal", structure())
    stress = [[10.0, 1.0, 2.0], [1.0, -20.0, 3.0], [2.0, 3.0, 30.0]]
    return {
        "structure": crystal.as_dict(),
        "uncorrected_total_energy": RAW,
        "corrected_total_energy": CORRECTED,
        "energy_per_atom": CORRECTED / 4,
        "ef_per_atom": -1.0,
        "force": [[0.1, 0.0, -0.2]] * 4,
        "stress": stress,
        "magmom": [0.0, -3.7, 0.01, 0.02],
        "bandgap": 1.2,
    } | changes


def read(tmp_path, content, name="MPtrj_made_up.json"):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    summary = read_sources([str(path)], tmp_path / "out")
    return read_parquet(tmp_path / "out" / "frames.parquet"), summary


def test_labels_units_and_names(tmp_path):
    moved = structure(0.01)
    content = {
        "mp-1": {"mp-7-0-3": entry(), "mp-7-0-4": entry(crystal=moved, magmom=None)},
        "mp-2": {"mp-9-1-0": entry(crystal=structure(0.02), force=None, stress=None)},
    }
    frames, summary = read(tmp_path, content)
    assert [f.frame_id for f in frames] == ["mp-7-0-3", "mp-7-0-4", "mp-9-1-0"]
    assert [f.group for f in frames] == ["mp-1", "mp-1", "mp-2"]
    assert [f.path for f in frames] == [f"MPtrj_made_up:{task}" for task in ("mp-7-0", "mp-7-0", "mp-9-1")]
    assert frames[0].energy == CORRECTED
    assert "MP2020" in frames[0].energy_reference
    for frame, crystal in zip(frames, (structure(), moved, structure(0.02)), strict=True):
        np.testing.assert_allclose(frame.positions, crystal.cart_coords, atol=1e-12)  # round-off
        np.testing.assert_array_equal(frame.numbers, crystal.atomic_numbers)
        assert frame.formula_units == 1
    # CHGNet's reader: stress in GPa is VASP's in kbar times -0.1.
    np.testing.assert_allclose(frames[0].stress / GPa, -0.1 * np.array(entry()["stress"]), rtol=1e-8)
    np.testing.assert_array_equal(frames[0].magmoms, entry()["magmom"])
    assert frames[1].magmoms is None
    assert frames[2].forces is None and frames[2].stress is None
    assert not summary["set_aside"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"energy_per_atom": RAW / 4}, "energy_per_atom says"),
        ({"corrected_total_energy": None}, "NoneType"),
        ({"force": [[0.1, 0.0, -0.2]] * 3}, "forces has 9 numbers for 4 atoms"),
        ({"magmom": [0.0, 1.0]}, "magmoms has 2 numbers"),
        ({"stress": [1.0, 2.0, 3.0]}, "reshape"),
        ({"structure": {"lattice": {}}}, "there is no 'matrix'"),
        ({"energy_per_atom": 1e300, "corrected_total_energy": 4e300}, "cannot be"),
    ],
)
def test_a_damaged_frame_is_named_and_the_others_read(tmp_path, bad, reason):
    content = {"mp-1": {"mp-7-0-3": entry(**bad), "mp-7-0-4": entry()}, "mp-2": ["no frames"]}
    frames, summary = read(tmp_path, content)
    assert [f.frame_id for f in frames] == ["mp-7-0-4"]
    assert summary["set_aside"] == 2
    aside = (tmp_path / "out" / "set_aside.csv").read_text()
    assert "mp-1, mp-7-0-3" in aside
    assert reason in aside


def test_a_site_of_two_elements_is_no_frame(tmp_path):
    mixed = entry()
    mixed["structure"]["sites"][1]["species"] = [
        {"element": "Fe", "occu": 0.5},
        {"element": "Mn", "occu": 0.5},
    ]
    _, summary = read(tmp_path, {"mp-1": {"a-0-0": mixed, "a-0-1": entry()}})
    assert summary["set_aside"] == 1


def test_a_file_cut_short_keeps_what_comes_before(tmp_path):
    whole = json.dumps({"mp-1": {"a-0-0": entry()}, "mp-2": {"b-0-0": entry(crystal=structure(0.1))}})
    frames, summary = read(tmp_path, whole[: len(whole) - 300])
    assert [f.frame_id for f in frames] == ["a-0-0"]
    assert summary["set_aside"] == 1
    assert "Get the file again" in (tmp_path / "out" / "set_aside.csv").read_text()


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", "{" * 100_000, '{"a": ' * 5000])
def test_no_frames_is_one_line(tmp_path, content):
    with pytest.raises(UserError):
        read(tmp_path, content)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten times the frames need less than twice the memory: the file is never held as a whole."""
    peaks = []
    for materials in (40, 400):
        path = tmp_path / f"MPtrj_{materials}.json"
        with path.open("w") as handle:
            handle.write("{")
            for number in range(materials):
                frames = {f"t-{number}-{step}": entry(crystal=structure(step / 50)) for step in range(5)}
                handle.write(f'{"," if number else ""}"mp-{number}": {json.dumps(frames)}')
            handle.write("}")
        from workflow_lib.frames.reading.common import Defaults
        from workflow_lib.frames.reading.mptrj import read_mptrj

        tracemalloc.start()
        assert sum(len(batch) for batch, _ in read_mptrj(path, Defaults("made-up"))) == 5 * materials
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0]
