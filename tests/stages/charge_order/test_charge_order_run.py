"""One model answers for the charge-ordered states: what labelled and blind models can tell."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase.io import read
from charge_order_toy import save_toy

from workflow_lib.core.errors import UserError
from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.trained import TrainedModel
from workflow_lib.results_reading import read_reference
from workflow_lib.results_schema import TABLES
from workflow_lib.simulation import relaxation
from workflow_lib.simulation.cache import RelaxationCache, model_identity
from workflow_lib.stages.charge_order.figures import states_figure
from workflow_lib.stages.charge_order.protocols import state_roles
from workflow_lib.stages.charge_order.run import run_charge_order
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings

pytestmark = pytest.mark.usefixtures("toy")


@dataclass
class Desk:
    """Everything a charge-order result needs but the model."""

    root: Path
    rule: RedoxRule
    host: Host
    reference: Path
    splits: Path
    settings: ChargeOrderSettings

    def sit(self, model_dir: Path, name: str, cache: str = "cache") -> tuple[dict, pd.DataFrame]:
        scores = run_charge_order(
            model=TrainedModel.load(model_dir),
            reference_dir=self.reference,
            host=self.host,
            splits_path=self.splits,
            settings=self.settings,
            out=self.root / name,
            cache=self.root / cache,
        )
        return scores, pd.read_csv(self.root / name / "states.csv")


@pytest.fixture
def desk(tmp_path, rule, host, reference_dir, splits_path, settings) -> Desk:
    return Desk(tmp_path, rule, host, reference_dir, splits_path, settings)


@pytest.fixture(scope="module")
def desks(
    toy, tmp_path_factory, rule, host, reference_dir, splits_path, settings
) -> dict[str, tuple[Desk, dict, pd.DataFrame]]:
    """Both variants of the toy, examined once for the tests that only read the answers."""
    result = {}
    for name, embedding in (("entropy", "surrogate"), ("baseline", "none")):
        root = tmp_path_factory.mktemp(name)
        desk = Desk(root, rule, host, reference_dir, splits_path, settings)
        scores, states = desk.sit(save_toy(root / "model", rule, embedding), f"toy-{name}-f0-s1")
        result[name] = desk, scores, states
    return result


def test_labelled_model_keeps_the_orders_it_was_given(desks) -> None:
    _, scores, states = desks["entropy"]
    assert list(states.columns) == list(TABLES["charge_order/states"].columns)
    assert states.groupby("protocol").size().to_dict() == dict.fromkeys(
        ("single-point", "distorted", "undistorted"), 16
    )
    for protocol in ("distorted", "undistorted"):
        rows = states[states["protocol"] == protocol]
        inner = rows[(rows["x"] > 0) & (rows["x"] < 1)]
        # The label alone draws the bonds of Fe3+ in, from either start: the wells lie 0.22 A apart,
        # and neighbours shared between sites leave at least half of that.
        assert (inner["bond_gap_a"] > 0.1).all()
        assert (inner["order"] == "kept").all()
        assert (inner["realised_key"] == inner["state_key"]).all()
        # Differences of energies of about 100 eV, in meV.
        assert np.allclose(rows.loc[rows["x"].isin([0, 1]), "formation_mev_fu"], 0, atol=1e-6)
    protocol = scores["protocols"]["distorted"]
    assert (protocol["orders_kept"], protocol["orders_changed"], protocol["orders_ambiguous"]) == (16, 0, 0)
    assert protocol["redox_spread_ratio"] > 0.1
    assert scores["headline_protocol"] == "distorted"
    assert scores["relaxations"] == 32
    assert scores["states_mae_mev_fu"] == protocol["states_mae_mev_fu"] is not None
    assert (scores["id"], scores["variant"], scores["fold"]) == ("toy-entropy-f0-s1", "entropy", 0)


def test_blind_model_cannot_tell_orders_apart_from_an_undistorted_start(desks) -> None:
    desk, scores, states = desks["baseline"]
    rows = states[states["protocol"] == "undistorted"]
    assert (rows.groupby("ion_key")["energy_ev"].agg(np.ptp) == 0).all()
    assert scores["charge_labelled"] is False
    protocol = scores["protocols"]["undistorted"]
    assert protocol["redox_spread_ratio"] == 0
    assert protocol["redox_pairs_ordered"] == 0.5
    assert protocol["ground_states_found_all"] == 0
    assert protocol["ion_arrangements"] == 5
    assert protocol["minimum_over_orders_mae_mev_fu"] > 0
    # 16 distorted starts, but only the 7 arrangements of the ions undistorted.
    model = TrainedModel.load(desk.root / "model")
    assert len(RelaxationCache(desk.root / "cache", model_identity(model))) == 16 + 7
    assert scores["relaxations"] == 16 + 7
    # One well for all iron: moments read from the bonds no longer show the order of the start.
    distorted = states[(states["protocol"] == "distorted") & (states["x"] > 0) & (states["x"] < 1)]
    assert not (distorted["order"] == "kept").any()


def test_single_points_are_the_models_energies_at_the_dft_geometries(desks) -> None:
    desk, _, states = desks["entropy"]
    rows = states[states["protocol"] == "single-point"]
    frames = read(desk.reference / "reference.extxyz", index=":")
    energies = [item.energy for item in TrainedModel.load(desk.root / "model").predict(frames)]
    # The CSV keeps 10 significant digits.
    assert np.allclose(rows["energy_ev"], energies, rtol=1e-9)
    assert (rows["steps"] == 0).all()
    assert np.allclose(rows["bond_gap_a"], rows["dft_bond_gap_a"], equal_nan=True)


def test_structures_carry_labels_and_name_their_state(desks) -> None:
    desk, _, states = desks["baseline"]
    relaxed = read(desk.root / "toy-baseline-f0-s1/structures.extxyz", index=":")
    assert len(relaxed) == 32
    for atoms in relaxed:
        arrangement = desk.host.locate(atoms, atoms.arrays["oxidation_states"])
        assert desk.host.key(arrangement) == atoms.info["state_key"]
    energies = [atoms.info["model_energy"] for atoms in relaxed]
    # Extended XYZ keeps 8 digits of a number in the comment line.
    assert np.allclose(energies, states.loc[states["protocol"] != "single-point", "energy_ev"], rtol=1e-7)


def test_states_are_marked_by_their_set_in_the_models_fold(desk: Desk) -> None:
    model = save_toy(desk.root / "model", desk.rule, "none", fold=1)
    _, states = desk.sit(model, "toy-baseline-f1-s1")
    fold = json.loads(desk.splits.read_text())["folds"][1]
    rows = states[states["protocol"] == "distorted"].set_index("state_key")
    assert set(rows.index[rows["role"] == "test"]) == set(fold["test_states"])
    assert set(rows.index[rows["role"] == "validation"]) == set(fold["validation_states"])
    assert set(rows.index[~rows["seen"]]) == set(fold["test_states"])
    assert (rows.loc[rows["x"].isin([0, 1]), "role"] == "train").all()


def test_a_frame_held_out_of_a_state_that_trains_does_not_make_it_unseen(desk: Desk) -> None:
    """Frames split one by one: the reference frame of every inner state tests, others of it train."""
    reference = pd.read_csv(desk.reference / "reference.csv")
    inner = (reference["x"] > 0) & (reference["x"] < 1)
    pairs = np.array(list(zip(reference["frame_id"], reference["state_key"], strict=True)))
    first, *others = map(tuple, pairs[inner])
    trained = [*map(tuple, pairs[~inner]), *((f"another-{name}", key) for name, key in others)]
    fold = Fold.of(0, {"train": trained, "validation": [], "test": [first, *others]})
    path = desk.root / "by-frame.json"
    Splits("frame", 711, (fold,)).save(path)
    roles = state_roles(Splits.load(path), 0, reference, desk.host)
    assert roles == ["test" if name == first[0] else "train" for name in reference["frame_id"]]
    model = save_toy(desk.root / "model", desk.rule, "none")
    desk.splits = path
    scores, states = desk.sit(model, "toy-baseline-f0-s1")
    assert states["seen"].sum() == 3 * (len(reference) - 1)
    assert scores["states_unseen"] == 0
    assert scores["states_spearman"] is None
    assert scores["states_spearman_all"] is not None


@pytest.mark.draws
def test_two_runs_give_identical_files_and_the_cache_changes_nothing(desk: Desk) -> None:
    model = save_toy(desk.root / "model", desk.rule, "surrogate")
    desk.sit(model, "a/charge_order", cache="one")
    desk.sit(model, "b/charge_order", cache="two")
    desk.sit(model, "c/charge_order", cache="one")
    names = sorted(path.name for path in (desk.root / "a/charge_order").iterdir())
    assert names == [
        "charge-order.sha256.json",
        "scores.json",
        "states.csv",
        "states.png",
        "states.svg",
        "structures.extxyz",
        "timings.json",
    ]
    for other in "bc":
        for name in set(names) - {"timings.json"}:
            left = (desk.root / "a/charge_order" / name).read_bytes()
            assert left == (desk.root / other / "charge_order" / name).read_bytes(), name


def test_diverged_states_are_reported_and_left_out(desk: Desk) -> None:
    model = save_toy(desk.root / "model", desk.rule, "surrogate", explodes=True)
    scores, states = desk.sit(model, "charge_order")
    inner = (states["x"] > 0) & (states["x"] < 1)
    assert (states.loc[inner, "status"] == "diverged").all()
    assert states.loc[inner, "energy_ev"].isna().all()
    assert (states.loc[~inner, "status"] != "diverged").all()
    protocol = scores["protocols"]["distorted"]
    assert protocol["without_energy"] == 14
    assert protocol["states_total"] == 0
    assert scores["states_spearman"] is None
    assert scores["states_mae_mev_fu_all"] is None
    assert scores["ground_states_found_all"] == 0
    assert scores["redox_spread_ratio"] is None


def test_model_whose_training_diverged_is_not_run(desk: Desk) -> None:
    model = save_toy(desk.root / "model", desk.rule, "surrogate", status="diverged")
    scores, states = desk.sit(model, "charge_order")
    assert (states["status"] == "diverged").all()
    assert states["formation_mev_fu"].isna().all()
    assert scores["model_status"] == "diverged"
    assert scores["ground_states_found"] is None
    assert (desk.root / "charge_order/states.png").stat().st_size > 0
    assert (desk.root / "charge_order/structures.extxyz").read_text() == ""


def test_mistakes_are_one_clear_line(desk: Desk) -> None:
    other = save_toy(desk.root / "other", desk.rule, "none", energy_reference="VASP/PBE+U")
    with pytest.raises(UserError, match="trained at VASP/PBE\\+U, the DFT reference is GPAW"):
        desk.sit(other, "charge_order")
    foreign = save_toy(desk.root / "foreign", desk.rule, "none", fold=7)
    with pytest.raises(UserError, match=r"holds no fold 7; it has \[0, 1\]"):
        desk.sit(foreign, "charge_order")
    desk.splits = desk.root / "splits.json"
    desk.splits.write_text('{"folds": [{"fold": 7}]}')
    with pytest.raises(UserError, match="no file of splits"):
        desk.sit(foreign, "charge_order")
    desk.reference = desk.root
    with pytest.raises(UserError, match=r"reference\.csv does not exist"):
        desk.sit(foreign, "charge_order")
    assert not (desk.root / "charge_order").exists()


@pytest.mark.draws
def test_the_figure_tells_diverged_states_from_those_without_a_zero(
    reference_dir: Path, tmp_path: Path
) -> None:
    states = read_reference(reference_dir)[0].rename(
        columns={"energy_ev": "dft_energy_ev", "formation_mev_fu": "dft_formation_mev_fu"}
    )
    states = states.assign(
        protocol="distorted", seen=False, dft_fmax_ev_a=0.01, energy_ev=-1.0, formation_mev_fu=np.nan
    )
    inner = (states["x"] > 0) & (states["x"] < 1)
    for lost, said, unsaid in (
        (~inner, "no formation energies", "14 diverged"),
        (inner, "14 of 14 diverged", "no formation energies"),
    ):
        table = states.assign(status=np.where(lost, "diverged", "converged"))
        states_figure(table, tmp_path, title="toy", cells="fixed")
        svg = (tmp_path / "states.svg").read_text()
        assert said in svg and unsaid not in svg


@pytest.mark.parametrize("embedding", ["surrogate", "none"])
def test_structure_that_became_another_arrangement_has_no_energy(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, embedding: str
) -> None:
    key, other = (desk.host.key(a) for a in desk.host.enumerate((1, 1, 1), 2, charges=True)[::9])
    real = relaxation.relax
    ions = desk.host.parse(key).without_charges()

    def hops(model, starts, **options):
        ends = real(model, starts, **options)
        atoms = desk.host.build(desk.host.parse(other))
        return [
            replace(end, atoms=atoms, energy=end.energy - 50.0)
            if desk.host.locate(start, None) == ions
            else end
            for start, end in zip(starts, ends, strict=True)
        ]

    monkeypatch.setattr(relaxation, "relax", hops)
    model = save_toy(desk.root / "model", desk.rule, embedding)
    scores, states = desk.sit(model, "charge_order")
    relaxed = states[states["protocol"] != "single-point"]
    gone = relaxed[relaxed["ion_key"] == desk.host.key(ions)]
    assert len(gone) and (gone["status"] == "moved").all()
    assert gone[["energy_ev", "formation_mev_fu"]].isna().all(axis=None)
    assert (relaxed.drop(index=gone.index)["status"] != "moved").all()
    protocol = scores["protocols"]["distorted"]
    assert protocol["status"]["moved"] == protocol["without_energy"] == len(gone) / 2
    images = read(desk.root / "charge_order/structures.extxyz", ":")
    assert len(images) == len(relaxed) - len(gone)
    assert key not in [atoms.info["state_key"] for atoms in images]
