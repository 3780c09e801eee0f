"""DFT's answers: which frame speaks for a state, and formation energies against the end members."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from changed_config import changed_config
from dft_states import flipped, rebuilt, silent
from samples import last_of_paths, sample_table

from workflow_lib.__main__ import main
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json
from workflow_lib.frames.foreign import write_frames
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.reading.run import read_sources
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.polaron import bond_gap
from workflow_lib.results_reading import read_reference, seal
from workflow_lib.stages.charge_order.reference import require_followed
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings


def test_every_enumerated_state_has_its_answer(reference_dir: Path, host: Host) -> None:
    table, structures = read_reference(reference_dir)
    enumerated = {
        host.key(arrangement)
        for filled in range(5)
        for arrangement in host.enumerate((1, 1, 1), filled, charges=True)
    }
    assert set(table["state_key"]) == enumerated
    assert Counter(table["x"]) == {0: 1, 0.25: 2, 0.5: 10, 0.75: 2, 1: 1}
    # Degeneracies count all neutral decorations: choose the ions and, independently, the electrons.
    for filled in range(5):
        rows = table[np.isclose(table["x"], filled / 4)]
        assert rows["degeneracy"].sum() == comb(4, filled) ** 2
    for atoms, row in zip(structures, table.itertuples(), strict=True):
        arrangement = host.locate(atoms, atoms.arrays["oxidation_states"])
        assert host.key(arrangement) == row.state_key
        assert atoms.info["REF_energy"] == pytest.approx(row.energy_ev, rel=1e-9)


def test_energies_are_those_of_the_last_relaxation_frame(reference_dir: Path) -> None:
    table = read_reference(reference_dir)[0].set_index("group")
    # A path goes on from one source to the next; its last step is found here by the number in its id.
    ends = last_of_paths(sample_table()).loc[table.index]
    assert table["frame_id"].tolist() == ends["frame_id"].tolist()
    # The CSV keeps 10 digits of some 180 eV.
    np.testing.assert_allclose(table["energy_ev"], ends["energy"], rtol=1e-9)
    np.testing.assert_allclose(table["formation_mev_fu"], ends["formation_mev_fu"], atol=1e-3)
    largest = [np.linalg.norm(forces.reshape(-1, 3), axis=1).max() for forces in ends["forces"]]
    np.testing.assert_allclose(table["fmax_ev_a"], largest, rtol=1e-6)
    assert (table["status"] == "converged").tolist() == [force <= 0.05 for force in largest]
    assert table.loc[["x000_s0", "x100_s0"], "formation_mev_fu"].abs().max() < 1e-9
    # Polarons are seen in every DFT geometry.
    assert table["bond_gap_a"].dropna().between(0.05, 0.2).all()


def test_the_original_set_has_its_published_energies(
    original_frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    table = rebuilt(original_frames, host, tmp_path).set_index("group")
    # The last steps of the first data set, as its README gave them in whole meV per formula unit.
    for group, expected in (("x050_s8", 38), ("x050_s1", 42), ("x025_s0", 97), ("x050_s6", 350)):
        assert table.loc[group, "formation_mev_fu"] == pytest.approx(expected, abs=0.5)
    assert not (table["status"] == "converged").any()


def test_files_that_number_their_runs_alike_keep_all_states(
    original_frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    """Run 1 of every file is the relaxation of another state, and none is converged."""
    relaxed = [frame for frame in original_frames if frame.kind == "relaxation"]
    for group in {frame.group for frame in relaxed}:
        one = [with_labels(frame, path="1") for frame in relaxed if frame.group == group]
        write_frames(one, tmp_path / f"{group}.extxyz")
    read_sources([str(tmp_path / "*.extxyz")], tmp_path / "read")
    together = read_parquet(tmp_path / "read/frames.parquet")
    assert {(frame.group, frame.path) for frame in together} == {
        (group, f"{group}:1") for group in {frame.group for frame in relaxed}
    }
    columns = ["state_key", "frame_id", "paths", "status"]
    expected = rebuilt(relaxed, host, tmp_path / "expected")
    found = rebuilt(together, host, tmp_path / "found")
    pd.testing.assert_frame_equal(found[columns], expected[columns])


def test_lowest_of_several_paths_speaks_for_the_state(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    last = [f for f in frames if f.group == "x050_s8" and f.kind == "relaxation"][-1]
    lower = with_labels(last, frame_id="b-00", orbital="b", path="b", energy=last.energy - 0.2, fmax=0.04)
    higher = with_labels(last, frame_id="c-00", orbital="c", path="c", energy=last.energy + 0.2)
    table = rebuilt([*frames, lower, higher], host, tmp_path).set_index("group")
    row = table.loc["x050_s8"]
    assert (row["frame_id"], row["orbital"], row["paths"]) == ("b-00", "b", 3)
    assert row["status"] == "converged"
    assert table.loc["x050_s1", "paths"] == 1


def test_a_collapsed_path_answers_for_the_state_it_fell_into(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    fallen = [f for f in frames if f.group == "x050_s1" and f.kind == "relaxation"][-1]
    meant = [f for f in frames if f.group == "x050_s2" and f.kind == "relaxation"][-1].path
    end = with_labels(fallen, frame_id="end", group="x050_s2", path=meant, energy=-200.0)
    way = [f for f in frames if f.path != meant or f.fmax > 0.05]
    table = rebuilt([*way, end], host, tmp_path).set_index("state_key")
    assert table.loc[fallen.state_key, "frame_id"] == end.frame_id
    # The state that the path was meant for has no end geometry any more: it is not invented.
    assert len(table) == 15
    assert "x050_s2" not in table.drop(fallen.state_key)["group"].tolist()


def test_frames_that_are_no_state_of_the_host_change_nothing(
    all_frames: list[Frame], frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    plain = rebuilt(frames, host, tmp_path / "plain")
    assert rebuilt(all_frames, host, tmp_path / "all").equals(plain)
    last = [f for f in frames if f.group == "x050_s8" and f.kind == "relaxation"][-1]
    manganese = np.where(last.numbers == 26, 25, last.numbers)
    silicate = np.where(last.numbers == 15, 14, last.numbers)  # of the couple, but on another lattice
    away = last.positions.copy()
    away[0] += [2.5, 0.0, 0.0]  # an Na between the sites
    other = [
        with_labels(last, frame_id="mn", group="mn", numbers=manganese, oxidation_states=None),
        with_labels(last, frame_id="si", group="si", numbers=silicate, energy=-999.0),
        with_labels(last, frame_id="away", group="away", positions=away, energy=-999.0),
    ]
    other = [with_labels(frame, state_key=None) for frame in other]
    assert rebuilt([*frames, *other], host, tmp_path / "more").equals(plain)


def test_bond_gap_measures_the_breathing_of_a_start(host: Host) -> None:
    arrangement = host.enumerate((1, 1, 1), 2, charges=True)[0]
    bare, breathed = host.build(arrangement), host.build(arrangement, polaron_distortion=0.05)
    states = bare.arrays["oxidation_states"]
    assert bond_gap(bare, host, states) == pytest.approx(0, abs=0.05)
    swapped = np.where(states == 0, 0, 5 - states)
    assert bond_gap(breathed, host, states) > bond_gap(bare, host, states) + 0.02
    assert bond_gap(breathed, host, swapped) == pytest.approx(-bond_gap(breathed, host, states))
    full = host.build(host.enumerate((1, 1, 1), 4, charges=True)[0])
    assert np.isnan(bond_gap(full, host, full.arrays["oxidation_states"]))


def test_mistakes_are_one_clear_line(frames: list[Frame], host: Host, tmp_path: Path) -> None:
    mixed = [with_labels(frames[0], energy_reference="VASP"), *frames[1:]]
    with pytest.raises(UserError, match="mixes 2 levels of theory"):
        rebuilt(mixed, host, tmp_path)
    with pytest.raises(UserError, match="no relaxation of x = 1"):
        rebuilt([f for f in frames if f.group != "x100_s0"], host, tmp_path)
    with pytest.raises(UserError, match="needs frames with charge states of kind 'relaxation'"):
        rebuilt([f for f in frames if f.kind == "rattle"], host, tmp_path)
    with pytest.raises(UserError, match=r"reference\.csv does not exist"):
        read_reference(tmp_path)
    rebuilt(frames, host, tmp_path)
    out = tmp_path / "out"
    table = pd.read_csv(out / "reference.csv")
    table.iloc[1:].to_csv(out / "reference.csv", index=False)
    with pytest.raises(UserError, match="was changed or cut since `charge-order-reference` wrote it"):
        read_reference(out)
    seal(out, "charge-order-reference")
    with pytest.raises(UserError, match="list different states"):
        read_reference(out)
    table.drop(columns="degeneracy").to_csv(out / "reference.csv", index=False)
    seal(out, "charge-order-reference")
    with pytest.raises(UserError, match="lacks the columns degeneracy"):
        read_reference(out)
    table.to_csv(out / "reference.csv", index=False)
    (out / "reference.extxyz").write_text("28\nbroken")
    seal(out, "charge-order-reference")
    with pytest.raises(UserError, match="is damaged"):
        read_reference(out)


def test_frames_that_do_not_say_how_they_were_made_count_where_relaxed(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    """As in the public sets: the lowest relaxed frame of a state speaks for it, others do not."""
    relaxed = [frame for frame in frames if frame.state_key and frame.fmax <= 0.05]
    foreign = [with_labels(frame, kind="unspecified", group="NaFeOP") for frame in frames]
    table = rebuilt(foreign, host, tmp_path).set_index("state_key")
    assert set(table.index) == {frame.state_key for frame in relaxed}
    for key, row in table.iterrows():
        own = [frame.energy for frame in relaxed if frame.state_key == key]
        assert row["energy_ev"] == pytest.approx(min(own), rel=1e-9)
        assert row["paths"] == len(own)
    tense = [frame for frame in foreign if frame.fmax > 0.05]
    with pytest.raises(UserError, match="whose largest force is below"):
        rebuilt(tense, host, tmp_path)


def unnamed(frames: list[Frame]) -> list[Frame]:
    """The frames as a file brings them that says neither group nor calculation, only `opt`."""
    return [with_labels(f, group="Fe4O16P4", path=None, orbital=None, kind="relaxation") for f in frames]


def test_relaxations_that_share_a_group_stay_apart(frames: list[Frame], host: Host, tmp_path: Path) -> None:
    paths = [f for f in frames if f.kind == "relaxation"]
    plain = rebuilt(paths, host, tmp_path / "plain").set_index("state_key")
    table = rebuilt(unnamed(paths), host, tmp_path / "unnamed").set_index("state_key")
    pd.testing.assert_series_equal(table["energy_ev"], plain["energy_ev"])
    backwards = rebuilt(unnamed(paths)[::-1], host, tmp_path / "back").set_index("state_key")
    pd.testing.assert_series_equal(backwards["energy_ev"], plain["energy_ev"])


def test_what_is_read_last_changes_nothing(frames: list[Frame], host: Host, tmp_path: Path) -> None:
    paths = [f for f in frames if f.kind == "relaxation"]
    plain = rebuilt(paths, host, tmp_path / "plain")
    full = [f for f in paths if f.group == "x100_s0"][-1]
    maricite = with_labels(full, frame_id="maricite", state_key=None, energy=full.energy + 0.3)
    higher = with_labels(full, frame_id="higher", path="another run", energy=full.energy + 0.3)
    tense = with_labels(full, frame_id="tense", path="cut short", energy=full.energy - 0.3, fmax=0.2)
    table = rebuilt([*paths, maricite, higher, tense], host, tmp_path / "more")
    assert table.drop(columns="paths").equals(plain.drop(columns="paths"))
    assert table.set_index("group").loc["x100_s0", "paths"] == 3


def test_static_runs_are_answers_and_rattled_frames_are_none(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    paths = [f for f in frames if f.kind == "relaxation"]
    last = [f for f in paths if f.group == "x050_s8"][-1]

    def lower(**changes) -> Frame:
        return with_labels(last, frame_id="lower", path=None, energy=last.energy - 0.1, **changes)

    for name, changes, counts in (
        ("static", {"kind": "single"}, True),
        ("unconverged", {"kind": "single", "fmax": 0.06}, False),
        ("unknown", {"kind": "single", "fmax": None, "forces": None}, False),
        ("rattled", {"kind": "rattle"}, False),
        # A word that says nothing decides nothing: what MACE writes, other spellings of the same.
        *((word, {"kind": word}, True) for word in ("Default", "bulk", "relaxed", "vc-relax", "Static")),
        *((word, {"kind": word}, False) for word in ("Rattled", "MD", "strained", "NEB", "same_positions")),
    ):
        table = rebuilt([*paths, lower(**changes)], host, tmp_path / name).set_index("group")
        assert (table.loc["x050_s8", "frame_id"] == "lower") == counts, name


def test_lower_frames_of_a_kind_that_is_no_answer_are_said(
    frames: list[Frame], host: Host, tmp_path: Path, caplog
) -> None:
    paths = [f for f in frames if f.kind == "relaxation"]
    last = [f for f in paths if f.group == "x050_s8"][-1]
    for number, shift in enumerate((-0.2, -0.1, 0.1)):
        paths.append(
            with_labels(
                last, frame_id=f"m{number}", path=None, kind="MD", energy=last.energy + shift, fmax=0.01
            )
        )
    rebuilt(paths, host, tmp_path)
    assert "2 converged frames of kind 'md' lie below the answer to their state" in caplog.text
    caplog.clear()
    rebuilt([f for f in paths if f.frame_id not in ("m0", "m1")], host, tmp_path)
    assert "lie below" not in caplog.text
    with pytest.raises(UserError, match=r"it has 3 of kind 'md'$"):
        rebuilt(paths[-3:], host, tmp_path)


def test_energies_of_two_magnetic_orders_never_meet(
    frames: list[Frame], host: Host, tmp_path: Path, caplog
) -> None:
    paths = [f for f in frames if f.kind == "relaxation"]
    plain = rebuilt(paths, host, tmp_path / "plain")
    ends = ("x000_s0", "x100_s0")
    swapped = [flipped(f, -0.3) if f.group in ends else f for f in paths]
    with pytest.raises(UserError, match=r"mixes magnetic orders \(AFM 2 states, FM 14 states\)"):
        rebuilt(swapped, host, tmp_path / "swapped")
    # With ends in both orders, the order with more states counts, and it is said.
    beside = [flipped(f, -0.3) for f in paths if f.group in ends]
    assert rebuilt([*paths, *beside], host, tmp_path / "both").equals(plain)
    assert "AFM 2 states, FM 16 states" in caplog.text
    # All of them antiferromagnetic is one level like any other.
    table = rebuilt([flipped(f, -0.3) for f in paths], host, tmp_path / "all")
    np.testing.assert_allclose(table["formation_mev_fu"], plain["formation_mev_fu"], atol=1e-6)


def test_frames_without_moments_never_replace_those_with_them(
    frames: list[Frame], host: Host, tmp_path: Path, caplog
) -> None:
    """Antiferromagnetic end members from a file without moments lie lower and would shift everything."""
    paths = [f for f in frames if f.kind == "relaxation"]
    plain = rebuilt(paths, host, tmp_path / "plain")
    ends = [f for f in paths if f.group in ("x000_s0", "x100_s0")]
    static = [
        silent(f, -0.3, frame_id=f"{f.frame_id}-a", kind="single", path=None) for f in ends if f.fmax < 0.05
    ]
    assert len(static) >= 2
    table = rebuilt([*paths, *static], host, tmp_path / "beside")
    assert table.drop(columns="paths").equals(plain.drop(columns="paths"))
    assert "show no magnetic order" not in caplog.text
    # Where nothing else answers they do, and it is said.
    replaced = [silent(f, -0.3) if f in ends else f for f in paths]
    table = rebuilt(replaced, host, tmp_path / "alone")
    assert (
        "the moments of 2 of 16 states, 1x1x1:Na0000:Fe3333 among them, show no magnetic order"
        in caplog.text
    )
    inner = table["x"].between(0, 1, inclusive="neither")
    shift = table["formation_mev_fu"] - plain["formation_mev_fu"]
    np.testing.assert_allclose(shift[inner], 75.0, atol=1e-4)


def test_material_without_moments_is_no_reason_to_warn(
    frames: list[Frame], host: Host, tmp_path: Path, caplog
) -> None:
    rebuilt([silent(f, 0.0) for f in frames if f.kind == "relaxation"], host, tmp_path / "out")
    assert "show no magnetic order" not in caplog.text


@pytest.mark.parametrize(
    ("converged", "cell", "told"), [(True, "auto", True), (True, "fixed", False), (False, "auto", False)]
)
def test_models_without_stress_are_told_before_they_train(
    frames: list[Frame],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    converged: bool,
    cell: str,
    told: bool,
) -> None:
    """`cell: auto` relaxes cells where every state has a converged stress, which the frames decide."""
    dataset = tmp_path / "dataset"
    dataset.mkdir()
    stress = np.zeros((3, 3))
    labelled = [with_labels(frame, stress=stress, stress_converged=converged) for frame in frames]
    write_parquet(labelled, dataset / "frames.parquet")
    seal(dataset, "dataset")
    config = changed_config("charge_order.cell", cell)
    for settings in (config["training"], *(model.get("training", {}) for model in config["models"])):
        settings["loss"] = [term for term in settings.get("loss", ()) if term["label"] != "stress"]
    for model in config["models"]:
        model["training"] = {k: v for k, v in model.get("training", {}).items() if v != []}
    write_json(tmp_path / "config.json", config)
    options = ["--config", str(tmp_path / "config.json"), "--dataset", str(dataset)]
    code = main(["charge-order-reference", *options, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert (code, "mace trains without stress and cannot relax cells" in said) == (
        (2, True) if told else (0, False)
    )


def test_orders_on_identical_atoms_are_read_before_models_train(
    frames: list[Frame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, orders = tmp_path / "dataset", tmp_path / "orders.parquet"
    dataset.mkdir()
    write_parquet(frames, dataset / "frames.parquet")
    seal(dataset, "dataset")
    write_parquet([replace(frames[0], kind="same-positions", energy_reference="another")], orders)
    write_json(tmp_path / "config.json", changed_config("charge_order.identical_atoms", str(orders)))
    options = ["--config", str(tmp_path / "config.json"), "--dataset", str(dataset)]
    assert main(["charge-order-reference", *options, "--out", str(tmp_path / "out")]) == 2
    assert "different levels must not be compared" in capsys.readouterr().err
    assert not (tmp_path / "out/reference.csv").exists()


def test_the_compared_composition_needs_states_to_rank(host: Host) -> None:
    """Said before models train: headline numbers would be empty, and the Ewald job would stop the run."""
    known = {0: 1, 0.25: 2, 0.5: 10, 0.75: 2, 1: 1}
    ChargeOrderSettings().require_several(known, "DFT knows")
    ChargeOrderSettings(compared_x=0.500009).check(host)
    for few in (0.25, 0.333):  # two states have a rank correlation of 1 or -1, whatever the model
        told = (
            rf"compared_x is {few}, where %s no 3 states to rank.*2 at 0\.25, 10 at 0\.5.*set it to 0\.5$"
        )
        with pytest.raises(UserError, match=told % "DFT knows"):
            ChargeOrderSettings(compared_x=few).require_several(known, "DFT knows")
    with pytest.raises(UserError, match=told % "the cell of olivine NaFePO4 .* has"):
        ChargeOrderSettings(compared_x=few).check(host)
    with pytest.raises(UserError, match="describe the host by a larger cell"):
        ChargeOrderSettings().require_several({0: 1, 1: 1}, "DFT knows")


def test_the_embedding_follows_a_relaxation_that_dft_knows(
    frames: list[Frame], host: Host, tmp_path: Path
) -> None:
    table = rebuilt([f for f in frames if f.kind == "relaxation"], host, tmp_path / "plain")
    larger = pd.DataFrame({"x": [2 / 3]})
    require_followed(table, larger, 0.5)
    require_followed(table, larger, 0.666667)
    with pytest.raises(UserError, match=r"reference_x is 0\.666667, .* x = 0, 0\.25, 0\.5, 0\.75, 1 only"):
        require_followed(table, larger[:0], 0.666667)
