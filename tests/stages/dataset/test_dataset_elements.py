"""Counts and spreads of each element against a count that shares no code, and the periodic table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from samples import FRAMES, sample_table

from workflow_lib.core.elements import atomic_number
from workflow_lib.frames.frame import with_labels
from workflow_lib.frames.table import iter_parquet
from workflow_lib.stages.dataset.element_figure import _short, draw_elements, place
from workflow_lib.stages.dataset.element_table import element_table

EV_A3 = 160.21766208  # GPa


def deviation(values):
    values = np.ravel(values)
    return np.mean(np.abs(values - np.mean(values)))


@pytest.mark.parametrize("batch", [7, 1000])
def test_against_pandas_on_the_embedded_frames(batch):
    table = element_table(lambda: iter_parquet(FRAMES, batch)).set_index("element")
    frames = sample_table()
    numbers = np.concatenate(frames["numbers"])
    forces = np.concatenate(frames["forces"]).reshape(-1, 3)
    moments = np.abs(np.concatenate(frames["magmoms"]))
    per_atom = frames["energy"] / frames["atoms"]
    names = {"all": None, "O": 8, "Na": 11, "P": 15, "Fe": 26} | {
        name: atomic_number(name) for name in table.index if name != "all"
    }
    assert set(table.index) == set(names)
    for name, z in names.items():
        mine = np.full(len(numbers), True) if z is None else numbers == z
        holds = frames["numbers"].map(lambda n, z=z: z is None or z in n)
        row = table.loc[name]
        assert row["frames"] == holds.sum()
        assert row["atoms"] == row["atoms_with_moment"] == row["moment_count"] == mine.sum()
        assert row["stress_converged_frames"] == frames.loc[holds, "stress_converged"].sum()
        assert row["energy_count"] == holds.sum()
        assert row["force_count"] == 3 * mine.sum()
        assert row["stress_count"] == 9 * holds.sum()
        # Sums in another order: rounding only.
        expected = {
            "energy_mad_mev_atom": 1000 * deviation(per_atom[holds]),
            "force_mad_mev_a": 1000 * deviation(forces[mine]),
            "stress_mad_gpa": EV_A3 * deviation(np.stack(frames.loc[holds, "stress"])),
            "moment_mad_mub": deviation(moments[mine]),
        }
        for column, value in expected.items():
            assert row[column] == pytest.approx(value, rel=1e-9), (name, column)


def test_missing_labels_count_nothing(frames):
    bare = [
        with_labels(f, forces=None, magmoms=None, stress=None) if i % 2 else f
        for i, f in enumerate(frames[:10])
    ]
    table = element_table(lambda: [bare]).set_index("element")
    whole = element_table(lambda: [frames[:10:2]]).set_index("element")
    assert table.loc["Fe", "frames"] == 10
    assert table.loc["Fe", "atoms"] == 40
    assert table.loc["Fe", "atoms_with_moment"] == 20
    for label in ("force_mad_mev_a", "stress_mad_gpa", "moment_mad_mub", "force_count", "stress_count"):
        np.testing.assert_allclose(table[label], whole[label], rtol=1e-12)
    nothing = element_table(lambda: [bare[1::2]]).set_index("element")
    assert nothing.loc["all", "force_count"] == 0
    assert nothing[["force_mad_mev_a", "stress_mad_gpa", "moment_mad_mub"]].isna().all(axis=None)
    assert nothing["energy_mad_mev_atom"].notna().all()


def test_moments_are_taken_as_magnitudes(frames):
    turned = [with_labels(f, magmoms=-f.magmoms) if i % 2 else f for i, f in enumerate(frames[:8])]
    column = "moment_mad_mub"
    expected = element_table(lambda: [frames[:8]])[column]
    np.testing.assert_allclose(element_table(lambda: [turned])[column], expected, rtol=1e-12)


def test_places_in_the_periodic_table():
    known = {"H": (1, 1), "He": (1, 18), "Na": (3, 1), "P": (3, 15), "Fe": (4, 8), "Ga": (4, 13)}
    known |= {"Xe": (5, 18), "Ba": (6, 2), "Hf": (6, 4), "Rn": (6, 18), "Rf": (7, 4), "Og": (7, 18)}
    for symbol, where in known.items():
        assert place(atomic_number(symbol)) == where
    assert place(57)[1] == place(89)[1] == 3
    assert len({place(z) for z in range(1, 119)}) == 118


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (999, "999"), (1000, "1.0k"), (9960, "10k"), (298_144, "298k"), (1_580_395, "1.6M")],
)
def test_short_numbers(count, text):
    assert _short(count) == text


@pytest.mark.draws
def test_figure(frames, tmp_path):
    table = element_table(lambda: [frames])
    draw_elements(table, tmp_path / "elements")
    text = (tmp_path / "elements.svg").read_text()
    assert all(f">{name}<" in text for name in ("Fe", "Na", "all", "Og"))
    assert f">{table.loc[0, 'force_mad_mev_a']:.3g}<" in text
    alone = pd.concat([table.head(1), table[table["element"] == "Fe"]]).assign(
        force_mad_mev_a=np.nan, atoms_with_moment=0
    )
    draw_elements(alone, tmp_path / "bare")
    assert ">none<" in (tmp_path / "bare.svg").read_text()
