"""The dataset stage as a whole: what it writes, and what it refuses before it writes anything."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from samples import FRAMES, ORIGINAL, REFERENCE, host_elements, sample_table

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, sha256
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import with_labels
from workflow_lib.frames.labels import UNSTATED
from workflow_lib.frames.subset import composition
from workflow_lib.frames.table import read_parquet
from workflow_lib.stages.dataset.index import labelled_frames, make_index
from workflow_lib.stages.dataset.run import build_dataset
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.sites import NOT_USED
from workflow_lib.stages.dataset.source import open_source

FIGURES = ("composition", "redox", "energy", "coverage", "charge_states", "elements")
NUMBERS = {"frames.parquet", "set_aside.csv", "splits.json", "summary.json"}
SEAL = {"dataset.sha256.json"}
FILES = NUMBERS | SEAL | {f"{name}.{suffix}" for name in FIGURES for suffix in ("svg", "png", "csv")}
DEFAULT = DatasetSettings(energy_reference=REFERENCE, path=str(FRAMES))


@pytest.fixture(scope="module")
def raw():
    """The embedded frames as the file holds them, of all chemistries: no charge states."""
    return read_parquet(FRAMES)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """The same counted by pandas, from which the expected numbers come."""
    return sample_table()


@pytest.fixture(scope="module")
def built(rule, host, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dataset")
    build_dataset(settings=DEFAULT, rule=rule, host=host, seed=711, out=out)
    return out


@pytest.fixture
def build(rule, host, raw, tmp_path):
    """Write frames to a file and make the dataset of it; returns the output folder."""

    def run(frames, suffix=".parquet", **changes) -> Path:
        source = tmp_path / f"source{suffix}"
        write_frames(frames, source)
        out = tmp_path / "out"
        try:
            build_dataset(
                settings=DatasetSettings(
                    **({"path": str(source), "energy_reference": REFERENCE} | changes)
                ),
                rule=rule,
                host=host,
                seed=711,
                out=out,
            )
        except UserError as error:
            assert not out.exists(), "a refused source leaves files behind"
            assert "\n" not in str(error)
            raise
        return out

    return run


def test_all_files_are_written_and_nothing_else(built):
    assert {path.name for path in built.iterdir()} == FILES
    for name in FIGURES:
        assert ET.parse(built / f"{name}.svg").getroot().tag.endswith("svg")
        assert (built / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.draws
def test_two_builds_are_bitwise_equal(built, rule, host, tmp_path):
    build_dataset(settings=DEFAULT, rule=rule, host=host, seed=711, out=tmp_path / "again")
    for name in FILES:
        assert sha256(built / name) == sha256(tmp_path / "again" / name), name


def test_frames_are_labelled_and_otherwise_unchanged(built, raw, all_frames):
    keys = [frame.state_key for frame in all_frames]
    for before, after, key in zip(raw, read_parquet(built / "frames.parquet"), keys, strict=True):
        assert (after.frame_id, after.energy, after.group) == (before.frame_id, before.energy, before.group)
        np.testing.assert_array_equal(after.positions, before.positions)
        np.testing.assert_array_equal(after.forces, before.forces)
        assert after.state_key == key
        if host_elements(after.numbers):
            assert set(after.oxidation_states[after.numbers == 26]) <= {2, 3}


NAMES = {0: "FePO4", 0.25: "Na0.25FePO4", 0.5: "Na0.5FePO4", 0.75: "Na0.75FePO4", 1: "NaFePO4"}


def test_summary_counts(built, table, frames):
    summary = read_json(built / "summary.json")
    n, mine = len(table), table[table["subset"]]
    assert n >= 191
    assert summary["frames"] == {"read": n, "kept": n, "set_aside": 0, "set_aside_by_reason": {}}
    # Of the arrangements of 0 to 4 Na and as many Fe2+ on four sites each: all that differ.
    assert summary["states"] == 1 + 2 + 10 + 2 + 1
    assert summary["groups"] == table["group"].nunique()
    assert summary["atoms"] == table["atoms"].sum()
    assert summary["frames_on_no_host"] == n - len(frames)
    assert 0 < summary["frames_of_the_host_on_no_site"] < summary["frames_on_no_host"]
    found = summary["frames_by_composition"]
    assert sum(found.values()) == n
    assert {x: found[name] for x, name in NAMES.items()} == mine["x"].value_counts().to_dict()
    assert summary["frames_by_kind"] == table["kind"].value_counts().to_dict()
    assert summary["labels"]["forces"] == table["forces"].notna().sum() == n
    assert summary["labels"]["charges"] == table["charges"].notna().sum()
    assert summary["stress"] == {
        "frames": table["stress"].notna().sum(),
        "converged_frames": 0,
        "converged": False,
    }
    assert summary["subset"]["frames"] == len(mine)
    one_chemistry = len(mine) == n
    assert summary["subset"]["identical_to_full"] is one_chemistry
    assert summary["source"]["sha256"] == sha256(FRAMES)
    assert summary["energy_reference"] == REFERENCE
    assert any("same frames" in line for line in summary["warnings"]) is one_chemistry
    assert any("stress is not converged" in line for line in summary["warnings"])
    splits = read_json(built / "splits.json")
    assert splits["subset_is_full"] is one_chemistry
    assert summary["splits"]["frames"][0]["test"] == len(splits["folds"][0]["test"])


def test_tables_beside_the_figures_hold_what_is_drawn(built, table, all_frames):
    composition = pd.read_csv(built / "composition.csv")
    assert composition["frames"].sum() == len(table)
    states = composition.drop_duplicates("composition").set_index("composition")["states_of_composition"]
    # A group is a state; polymorphs of the host come on top.
    mine = table[table["subset"]].groupby("x")["group"].nunique()
    assert {x: states[name] for x, name in NAMES.items()} == mine.to_dict()
    assert table[table["host"]].groupby("x")["group"].nunique().tolist() == [1, 2, 10, 2, 1]
    redox = pd.read_csv(built / "redox.csv")
    assert redox.groupby("quantity")["sites"].sum().to_dict() == {
        "charge_e": table.loc[table["charges"].notna(), "iron"].sum(),
        "moment_mub": table.loc[table["magmoms"].notna(), "iron"].sum(),
    }
    moments = redox[redox["quantity"] == "moment_mub"].query("sites > 0")
    assert (
        moments[moments["state"] == "Fe2+"]["high"].max() < moments[moments["state"] == "Fe3+"]["low"].min()
    )
    energy = pd.read_csv(built / "energy.csv")
    assert len(energy) == len(table)
    assert (energy["above_lowest_mev_atom"] >= 0).all()
    # One frame of each state, or of each group of another chemistry, is the lowest.
    lowest = energy[energy["above_lowest_mev_atom"] == 0].set_index("frame_id")["state"]
    assert lowest.is_unique and set(lowest) == set(energy["state"])
    per_atom = (table["energy"] / table["atoms"]).to_numpy()
    named = [f.state_key for f in all_frames]
    expected = pd.Series(per_atom, index=table["frame_id"]).groupby(named).idxmin()
    assert len(expected) == 16
    assert lowest[expected].to_dict() == {frame_id: key for key, frame_id in expected.items()}
    coverage = pd.read_csv(built / "coverage.csv").set_index("label")["frames"]
    assert coverage["magmoms"] == table["magmoms"].notna().sum()
    assert coverage["stress_converged"] == 0


def original(frames):
    """Frames of the first data set alone: of one chemistry, without polymorphs."""
    return [frame for frame in frames if frame.source == ORIGINAL]


def ambiguous(frame):
    return with_labels(frame, magmoms=np.where(frame.numbers == 26, 3.95, 0.0))


def test_ambiguous_frames_are_counted_drawn_and_kept_out_of_the_splits(build, raw, table):
    bad = [ambiguous(frame) if i in (13, 60, 61) else frame for i, frame in enumerate(raw)]
    out = build(bad)
    summary = read_json(out / "summary.json")
    assert summary["frames"]["kept"] == len(raw) - 3
    assert summary["frames"]["set_aside_by_reason"] == {"ambiguous moment": 3}
    aside = pd.read_csv(out / "set_aside.csv")
    assert aside["frame_id"].tolist() == [raw[i].frame_id for i in (13, 60, 61)]
    assert aside["reason"].str.contains("moment 3.95 muB of atom").all()
    redox = pd.read_csv(out / "redox.csv")
    # Fe beside ions that the rule gives no formal charge is not used either.
    unknown = table["numbers"].map(lambda numbers: not set(numbers) <= {8, 11, 14, 15, 16, 26})
    unused = 3 * 4 + table.loc[unknown, "iron"].sum()
    fates = pd.read_csv(out / "charge_states.csv").set_index("material")
    assert fates["frames"].sum() == len(raw)
    assert fates["ambiguous moment"].sum() == 3
    assert (fates.drop(columns=["groups", "frames"]).sum(axis=1) == fates["frames"]).all()
    assert fates.index[0] in {composition(raw[i]) for i in (13, 60, 61)}  # the most set aside stand first
    assert (
        redox[(redox["state"] == NOT_USED) & (redox["quantity"] == "moment_mub")]["sites"].sum() == unused
    )
    placed = {i for fold in read_json(out / "splits.json")["folds"] for i in fold["train"] + fold["test"]}
    assert not placed & set(aside["frame_id"])


def test_partial_labels_are_counted(build, raw, table):
    partial = [with_labels(f, charges=None) if i % 2 else f for i, f in enumerate(raw)]
    partial = [with_labels(f, forces=None) if i % 3 == 0 else f for i, f in enumerate(partial)]
    summary = read_json(build(partial) / "summary.json")
    without = len(range(0, len(raw), 3))
    assert summary["labels"]["charges"] == table["charges"][::2].notna().sum()
    assert summary["labels"]["forces"] == len(raw) - without
    assert f"{without} frames have no forces." in summary["warnings"]


@pytest.mark.parametrize("suffix", [".extxyz", ".db"])
def test_other_formats_give_the_same_states_and_splits(build, built, raw, suffix):
    out = build(raw, suffix=suffix)
    assert read_json(out / "splits.json") == read_json(built / "splits.json")
    mine, theirs = (pd.read_csv(folder / "energy.csv") for folder in (out, built))
    pd.testing.assert_frame_equal(mine, theirs, atol=1e-6, check_exact=False)


def test_two_chemistries_differ_from_their_subset(build, raw):
    mine = [frame for frame in raw if host_elements(frame.numbers)]
    other = [
        with_labels(
            f, numbers=np.where(f.numbers == 26, 25, f.numbers), frame_id=f"mn{i}", group=f"mn-{f.group}"
        )
        for i, f in enumerate(mine)
    ]
    out = build([*raw, *other])
    summary = read_json(out / "summary.json")
    assert summary["frames"]["kept"] == len(raw) + len(mine)
    assert summary["subset"] == {
        "elements": ["Na", "Fe", "P", "O"],
        "required_elements": ["Fe", "P", "O"],
        "frames": len(mine),
        "identical_to_full": False,
    }
    assert read_json(out / "splits.json")["subset_is_full"] is False
    assert not any("same frames" in line for line in summary["warnings"])


# Bad input: one line, and nothing is written (the fixture checks both).


def test_empty_subset_names_the_filter(build, raw):
    with pytest.raises(
        UserError, match=r"passes dataset\.subset_elements and required_elements \(only Na, Mn"
    ):
        build(original(raw), subset_elements=("Na", "Mn", "P", "O"), required_elements=("Mn",))


def test_every_frame_set_aside(build, raw, table):
    n = table["subset"].sum()
    message = (
        rf"all {n} frames .* set aside, {n} of them for: ambiguous moment .x000_s0-relaxation-00: moment"
    )
    with pytest.raises(UserError, match=message):
        build([ambiguous(frame) for frame in raw])


def test_mixed_levels_of_theory(build, raw):
    with pytest.raises(UserError, match="mixes 2 levels of theory"):
        build([*raw[:-1], with_labels(raw[-1], energy_reference="VASP/PBE+U")])


def test_frames_without_a_level_among_others_with_one(build, raw):
    """The configured level is not theirs unasked: in one file some frames would then be at any level."""
    some = [with_labels(frame, energy_reference=UNSTATED) for frame in raw[:2]]
    message = rf"2 of {len(raw)} frames state no level .* --energy-reference '{re.escape(REFERENCE)}'$"
    with pytest.raises(UserError, match=message):
        build([*some, *raw[2:]])


def test_another_level_than_configured(build, raw):
    with pytest.raises(UserError, match=r"is at the level 'GPAW.*, dataset.energy_reference says 'VASP'"):
        build(raw, energy_reference="VASP")


def test_a_level_that_no_file_states_is_the_configured_one(raw, rule, tmp_path):
    import ase.io
    from ase import Atoms

    atoms = Atoms(raw[0].numbers, positions=raw[0].positions, cell=raw[0].cell, pbc=True)
    atoms.info["REF_energy"] = raw[0].energy
    atoms.arrays["REF_forces"] = raw[0].forces
    ase.io.write(tmp_path / "t.extxyz", atoms)
    settings = DatasetSettings(energy_reference=REFERENCE, path=str(tmp_path / "t.extxyz"))
    source = open_source(settings)
    (found,) = labelled_frames(source, make_index(source, rule, None, settings), np.array([0]))
    assert found.energy_reference == REFERENCE


def test_file_with_no_forces(build, raw):
    with pytest.raises(
        UserError, match=f"holds no forces in {len(raw)} frames; accepted names: REF_forces"
    ):
        build([with_labels(frame, forces=None) for frame in raw])


def test_nan_labels(build, raw):
    bad = with_labels(raw[7], forces=np.full_like(raw[7].forces, np.nan))
    with pytest.raises(UserError, match="row 7: forces holds values that are not finite"):
        build([*raw[:7], bad, *raw[8:]])


def test_wrong_length_arrays(build, raw):
    with pytest.raises(UserError, match="row 7: magmoms has 5 rows for 24 atoms"):
        build([*raw[:7], with_labels(raw[7], magmoms=np.zeros(5)), *raw[8:]])


def test_repeated_frame_ids(build, raw):
    with pytest.raises(UserError, match="frame_id 'x000_s0-relaxation-00' occurs 2 times"):
        build([*raw, raw[0]])


def test_more_folds_than_states(build, raw):
    with pytest.raises(UserError, match=r"folds\.count is 15, but .* holds 14 states"):
        build(original(raw), folds={"count": 15})


def test_no_frames(build):
    with pytest.raises(UserError, match="holds no frames"):
        build([])


@pytest.mark.parametrize("name", ["none.parquet", "none.extxyz", "none.db", "frames.hdf5"])
def test_missing_or_unknown_source(rule, host, tmp_path, name):
    with pytest.raises(UserError, match=f"{name}.*does not exist|unknown suffix"):
        build_dataset(
            settings=DatasetSettings(energy_reference=REFERENCE, path=str(tmp_path / name)),
            rule=rule,
            host=host,
            seed=1,
            out=tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()


def test_truncated_source(rule, host, tmp_path):
    (tmp_path / "cut.parquet").write_bytes(FRAMES.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"cut\.parquet is truncated"):
        build_dataset(
            settings=DatasetSettings(energy_reference=REFERENCE, path=str(tmp_path / "cut.parquet")),
            rule=rule,
            host=host,
            seed=1,
            out=tmp_path / "out",
        )


def test_unwritable_results_folder(rule, host, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/out/frames\.parquet"):
        build_dataset(settings=DEFAULT, rule=rule, host=host, seed=1, out=tmp_path / "file/out")
