"""The dataset stage and its host: any setting, wrong hosts, misfits."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ase.io import write
from assigning import assign, in_memory
from invented_hosts import magnesium_silicate
from other_settings import unimodular
from samples import FRAMES, HOST, REFERENCE, RULE, sample_table

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import with_labels
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.stages.dataset import run
from workflow_lib.stages.dataset.decide import decide
from workflow_lib.stages.dataset.index import OTHER_CRYSTAL, make_index
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.source import open_source
from workflow_lib.stages.dataset.splits import make_units

SETTINGS = DatasetSettings(energy_reference=REFERENCE, path=str(FRAMES))


def other_host(tmp_path, rule: RedoxRule, **changes: object) -> Host:
    described = json.loads(HOST.read_text()) | changes
    (tmp_path / "host.json").write_text(json.dumps(described))
    return Host.load(tmp_path / "host.json", rule)


def test_the_host_is_described_and_misfits_are_counted(rule, host, capsys, caplog):
    index = make_index(open_source(SETTINGS), rule, host, SETTINGS)
    run._check_host(index, host, SETTINGS)
    assert capsys.readouterr().out == (
        "host olivine NaFePO4 (Pnma, 28 atoms): Pnma, 8 permutations of its sites, 16 charge-ordered "
        "states in its cell\n"
    )
    table = sample_table()
    maricite = table["subset"] & table["group"].str.startswith("maricite")
    assert index.rows["misfit"].notna().sum() == maricite.sum() > 10
    assert set(index.rows.loc[index.rows["misfit"].notna(), "frame_id"]) == set(
        table.loc[maricite, "frame_id"]
    )
    assert f"{maricite.sum()} of {(maricite | table['host']).sum()} frames of the host's composition" in (
        caplog.text
    )
    assert "A from its site in olivine" in caplog.text


def test_a_host_of_another_element_is_refused(tmp_path):
    """Lithium in the host, sodium in the frames: only the empty ones fit, which passed for an answer."""
    rule = RedoxRule.model_validate(RULE | {"formal_charges": RULE["formal_charges"] | {"Li": 1}})
    numbers = [3 if z == 11 else z for z in json.loads(HOST.read_text())["numbers"]]
    host = other_host(tmp_path, rule, mobile="Li", numbers=numbers, name="olivine LiFePO4")
    index = make_index(open_source(SETTINGS), rule, host, SETTINGS)
    with pytest.raises(UserError, match=r"397 of 429 frames .* fit no site of it .* is not the host's"):
        run._check_host(index, host, SETTINGS)
    # Where splits do not ask for states the host decides nothing.
    run._check_host(index, host, SETTINGS.model_copy(update={"split_by": "material"}))


def test_a_host_of_another_structure_is_refused(rule, tmp_path):
    scaled = np.array(json.loads(HOST.read_text())["scaled_full"])
    scaled[4:8] = (scaled[4:8] + np.array([0.5, 0.0, 0.0])) % 1.0  # iron in other octahedra
    host = other_host(tmp_path, rule, scaled_full=scaled.tolist(), scaled_empty=scaled.tolist())
    index = make_index(open_source(SETTINGS), rule, host, SETTINGS)
    with pytest.raises(UserError, match=r"A from its site in olivine .*set `host` to the crystal"):
        run._check_host(index, host, SETTINGS)


def test_two_settings_of_one_state_share_a_set(rule, host, original_frames):
    """Half the frames permuted, skewed and shifted: the same keys, and one unit of a split a state."""
    rng = np.random.default_rng(5)
    frames = []
    for number, frame in enumerate(original_frames[::3]):
        bare = with_labels(frame, state_key=None)
        if number % 2:
            bare = with_labels(
                bare,
                frame_id=f"other-{number}",
                group=f"other-{frame.group}",
                cell=unimodular(rng) @ frame.cell,
                positions=frame.positions + rng.uniform(-4, 4, 3),
            )
        frames.append(bare)
    labelled, aside = assign(frames, rule, host, SETTINGS)
    assert not aside
    assert [frame.state_key for frame in labelled] == [frame.state_key for frame in original_frames[::3]]
    units = make_units(labelled, host, SETTINGS)
    assert len(units) == len({frame.state_key for frame in labelled})


def paper_like(original_frames):
    """Olivine and, four times as many, maricite frames under the names that a formula gives both."""
    frames = [with_labels(frame, group=f"{len(frame)}", state_key=None) for frame in original_frames[::4]]
    maricite = [f for f in read_parquet(FRAMES) if f.group.startswith("maricite")]
    full = next(f.group for f in frames if len(f) == 28)
    copies = [
        with_labels(frame, frame_id=f"m-{number}-{frame.frame_id}", group=full)
        for number in range(4 * len(frames) // len(maricite))
        for frame in maricite
    ]
    return frames, copies


def test_a_majority_of_another_polymorph_is_no_wrong_host(rule, host, original_frames, caplog):
    """The public data hold maricite beside olivine NaFePO4, in files that name both by their formula."""
    frames, maricite = paper_like(original_frames)
    index = make_index(in_memory(frames + maricite), rule, host, SETTINGS)
    assert len(maricite) > 3 * len(frames)
    run._check_host(index, host, SETTINGS)
    assert f"{len(maricite)} of them are another crystal" in caplog.text
    # All are kept, as a material of their own: its frames share a set, and no state of the host.
    labelled, aside = assign(frames + maricite, rule, host, SETTINGS)
    assert not aside and len(labelled) == len(frames) + len(maricite)
    units = {unit.name: unit for unit in make_units(labelled, host, SETTINGS)}
    [other] = [name for name in units if name.endswith(OTHER_CRYSTAL)]
    assert set(units[other].frame_ids) == {frame.frame_id for frame in maricite}


def test_the_wrong_polymorph_as_host_is_refused(rule, host, original_frames):
    """A few frames that fit by accident do not make the host right."""
    frames, maricite = paper_like(original_frames)
    few = [frame for frame in frames if len(frame) == 28][:2]
    index = make_index(in_memory(few + maricite), rule, host, SETTINGS)
    with pytest.raises(UserError, match="fit no site of it"):
        run._check_host(index, host, SETTINGS)


def test_another_framework_of_the_same_elements_is_no_sign_of_a_wrong_host(rule, host, original_frames):
    """Na4Fe3(PO4)2P2O7 has the elements of the olivine and is simply another material."""
    frames, maricite = paper_like(original_frames)
    others = [
        with_labels(frame, numbers=np.append(frame.numbers[:-1], 15), oxidation_states=None, magmoms=None)
        for frame in maricite
    ]
    index = make_index(in_memory(frames + others), rule, host, SETTINGS)
    run._check_host(index, host, SETTINGS)


@pytest.mark.parametrize("mobile_known", [True, False])
def test_mixed_magnetic_orders_of_one_framework_are_said(rule, host, original_frames, mobile_known):
    """Antiferromagnetic end members beside ferromagnetic states shift every formation energy."""

    def warnings(frames):
        index = make_index(in_memory(frames), rule, host, SETTINGS)
        found = run._warnings(index, host if mobile_known else None)
        return [line for line in found if "Magnetic orders" in line]

    frames = original_frames[::5]
    assert not warnings(frames)
    signs = np.where(np.arange(28) % 2, -1.0, 1.0)
    turned = [
        with_labels(frame, magmoms=frame.magmoms * signs) if len(frame) == 28 else frame for frame in frames
    ]
    assert {frame.magnetic_order for frame in turned} == {"FM", "AFM"}
    [line] = warnings(turned)
    assert "AFM 3 frames of NaFePO4" in line
    # Without the mobile ion's name, the empty host is another chemistry.
    empty = [
        with_labels(frame, magmoms=frame.magmoms * signs[: len(frame)]) if len(frame) == 24 else frame
        for frame in frames
    ]
    assert {frame.magnetic_order for frame in empty} == {"FM", "AFM"}
    assert bool(warnings(empty)) is mobile_known


def test_formula_units_are_those_of_the_host_at_every_composition(tmp_path):
    """Mg2Fe4Si4O16 was taken for two formula units of MgFe2Si2O8, and its formation energy for -46 eV."""
    host, images = magnesium_silicate(), []
    for ions in range(5):
        for number, arrangement in enumerate(host.enumerate((1, 1, 1), ions, charges=True)[:3]):
            atoms = host.build(arrangement)
            states = atoms.arrays.pop("oxidation_states")
            atoms.arrays["REF_magmom"] = np.where(states == 2, 3.7, np.where(states == 4, 4.3, 0.0))
            atoms.arrays["REF_forces"] = np.zeros((len(atoms), 3))
            atoms.info |= {
                "REF_energy": -180.0 - 2 * ions,
                "group": f"{ions}-{number}",
                "kind": "relaxation",
            }
            images.append(atoms)
    write(tmp_path / "frames.extxyz", images, format="extxyz")
    level = "VASP/PBE+U/PW520"
    described = host.rule.model_dump(mode="json")
    for state, window in zip(described["states"], ([3.5, 3.9], [4.1, 4.5]), strict=True):
        state["magmom"] = {level: window}
    rule = RedoxRule.model_validate(described)
    host.rule = rule
    settings = DatasetSettings(
        path=str(tmp_path / "frames.extxyz"),
        energy_reference=level,
        subset_elements=("Mg", "Fe", "Si", "O"),
        required_elements=("Fe",),
        folds={"count": 2, "run": (0,)},
    )
    source = open_source(settings)
    index = make_index(source, rule, host, settings)
    assert index.rows["formula_units"].tolist() == [4] * len(images)
    assert set(index.rows["composition"]) == {
        *("FeSiO4", "FeMg0.25SiO4", "FeMg0.5SiO4", "FeMg0.75SiO4", "FeMgSiO4")
    }
    run.write_labelled(source, decide(index, source, settings), rule, tmp_path / "frames.parquet")
    kept = read_parquet(tmp_path / "frames.parquet")
    assert len(kept) == len(images) and {frame.formula_units for frame in kept} == {4}
