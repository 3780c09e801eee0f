"""DFT's answers of larger cells: tables of their own, and what of them is left out and said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dft_states import flipped, rebuilt, silent

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import read_table

LARGER = ("111111110000", "111110111000", "111111100100")


def test_states_of_larger_cells_have_a_table_of_their_own(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    """Nobody asks DFT again for what the dataset has, in whichever cell; a strained frame is no answer."""
    paths = [frame for frame in frames if frame.kind == "relaxation"]
    plain = rebuilt(paths, host, tmp_path / "plain")
    larger = [f"1x3x1:Na{ions}:Fe{ions.replace('1', '2').replace('0', '3')}" for ions in LARGER]
    last = paths[-1]
    still = np.zeros_like(last.forces)
    end = with_labels(last, frame_id="end", path="end", state_key=larger[0])
    point = with_labels(last, frame_id="one", path=None, kind="single", state_key=larger[1], forces=still)
    moved = with_labels(
        last, frame_id="rattled", path=None, kind="rattle", state_key=larger[2], forces=still
    )
    # Marked for testing, as the authors' DFT of what their search found: an answer if it is at rest.
    rest = with_labels(point, frame_id="at rest", kind="testing", energy=last.energy - 0.1)
    tense = with_labels(rest, frame_id="tense", forces=None, fmax=0.06, energy=last.energy - 5)
    table = rebuilt([*paths, end, point, moved, rest, tense], host, tmp_path / "more")
    pd.testing.assert_frame_equal(table, plain)
    known = read_table("charge_order/larger_cells", tmp_path / "more/out").set_index("state_key")
    assert known["frame_id"].to_dict() == {larger[0]: "end", larger[1]: "at rest"}
    assert known["paths"].to_dict() == {larger[0]: 1, larger[1]: 2}
    ends = plain.set_index("x")["energy_ev"] / 4
    for row in known.itertuples():
        line = (1 - row.x) * ends[0.0] + row.x * ends[1.0]
        assert row.formation_mev_fu == pytest.approx(1000 * (row.energy_ev / row.formula_units - line))
    assert read_table("charge_order/larger_cells", tmp_path / "plain/out").empty
    for folder, more in (("plain", []), ("more", larger[:2])):
        states = read_json(tmp_path / folder / "out/known_states.json")["states"]
        assert states == sorted([*plain["state_key"], *more])


def in_larger_cells(frames: list[Frame]) -> list[Frame]:
    """States of a 1x3x1 cell, one for each of :data:`LARGER`, relaxed."""
    return [
        with_labels(
            frames[-1],
            frame_id=f"l{number}",
            path=f"l{number}",
            fmax=0.01,
            state_key=f"1x3x1:Na{ions}:Fe{ions.replace('1', '2').replace('0', '3')}",
        )
        for number, ions in enumerate(LARGER)
    ]


def test_larger_cells_in_another_magnetic_order_are_left_out_and_said(
    frames: list[Frame], host: Host, tmp_path: Path, caplog
) -> None:
    paths = [frame for frame in frames if frame.kind == "relaxation"]
    one, *others = in_larger_cells(paths)
    rebuilt([*paths, one, *(flipped(f, -0.3) for f in others)], host, tmp_path / "mixed")
    assert "2 states of larger cells are left out (2 AFM)" in caplog.text
    larger = read_table("charge_order/larger_cells", tmp_path / "mixed/out")
    assert larger["frame_id"].tolist() == ["l0"]
    caplog.clear()
    # Where the states of the host's own cell show no order, all states decide.
    plain = [silent(f, 0.0) for f in paths]
    rebuilt([*plain, one, *(flipped(f, -0.3) for f in others)], host, tmp_path / "silent")
    larger = read_table("charge_order/larger_cells", tmp_path / "silent/out")
    assert sorted(larger["frame_id"]) == ["l1-a", "l2-a"]
    assert "1 states of larger cells are left out (1 FM)" in caplog.text


def test_a_host_whose_states_are_all_in_larger_cells_is_named(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"all 3 states in .* \(1x3x1\).*describe the host by that cell"):
        rebuilt(in_larger_cells([f for f in frames if f.kind == "relaxation"]), host, tmp_path)
