"""Out-of-fold scores over several models, and the figure that shows all of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_json
from workflow_lib.results_reading import read_reference
from workflow_lib.stages.charge_order.figures import charge_order_overview, looks_of
from workflow_lib.stages.charge_order.pooled import scores_across_folds
from workflow_lib.stages.charge_order.score import score_states

UNITS = 4


def write_charge_order(
    root: Path,
    reference: pd.DataFrame,
    *,
    fold: int,
    seed: int,
    factor: float,
    variant: str = "entropy",
    compared_x: float = 0.5,
    shift: float | pd.Series = 0.0,
    tested: Sequence[str] = (),
) -> Path:
    """A model whose formation energies are ``factor`` times DFT's plus ``shift`` (meV per formula unit).

    Fold 0 and 1 split the states but for those that are always ``tested``. Each fold's model has a zero
    of energy of its own, as separate trainings do.
    """
    x = reference["x"].to_numpy()
    inner = (x > 0) & (x < 1)
    unseen = inner & ((np.arange(len(reference)) % 2 == fold) | reference["state_key"].isin(tested))
    formation = factor * reference["formation_mev_fu"] + shift
    energy = UNITS * formation / 1000 - 100.0 * (fold + 1) - 3.0 * x
    states = reference.assign(
        protocol="distorted",
        seen=~unseen,
        status="converged",
        dft_energy_ev=reference["energy_ev"],
        dft_formation_mev_fu=reference["formation_mev_fu"],
        energy_ev=energy,
        formation_mev_fu=formation,
    )
    name = f"toy-{variant}-f{fold}-s{seed}"
    scores = {"id": name, "model": "toy", "family": "toy", "init": "scratch", "variant": variant}
    scores |= {"fold": fold, "seed": seed, "charge_labelled": True}
    scores |= score_states(states, compared_x, "distorted")
    write_json(root / name / "scores.json", scores)
    write_sealed("charge_order/states", root / name, states.assign(id=name))
    return root / name


@pytest.fixture(scope="module")
def reference(reference_dir: Path) -> pd.DataFrame:
    return read_reference(reference_dir)[0]


def test_folds_are_pooled_and_seeds_give_the_spread(reference: pd.DataFrame, tmp_path: Path) -> None:
    folders = [
        write_charge_order(tmp_path, reference, fold=fold, seed=seed, factor=factor)
        for seed, factor in ((1, 1.0), (2, 2.0))
        for fold in (0, 1)
    ]
    (row,) = scores_across_folds(folders).to_dict("records")
    assert (row["folds"], row["seeds"], row["states"], row["states_missing"]) == (2, 2, 10, 0)
    # Formation energies do not know of the folds' different zeros of energy.
    assert (row["spearman"], row["spearman_std"]) == (1, 0)
    assert (row["ground_states_found"], row["ground_states_total"]) == (2, 2)
    # Spreads 1 and 2: mean 1.5, standard deviation with n - 1 of sqrt(1/2).
    assert row["redox_spread_ratio"] == pytest.approx(1.5)
    assert row["redox_spread_ratio_std"] == pytest.approx(0.5**0.5)
    # Seed 1 is right, seed 2 doubles every deviation from the mean; CSVs keep 10 digits.
    formation = reference.loc[reference["x"] == 0.5, "formation_mev_fu"]
    assert row["mae_mev_fu"] == pytest.approx((formation - formation.mean()).abs().mean() / 2, rel=1e-6)


def test_ground_states_are_shares_of_the_seeds_in_which_they_count(
    reference: pd.DataFrame, tmp_path: Path
) -> None:
    """Where a model errs by more than DFT's margin, neither finding nor missing says anything."""
    folders = [
        write_charge_order(tmp_path, reference, fold=fold, seed=seed, factor=factor)
        for seed, factor in ((1, 1.0), (2, -3.0), (3, -3.0))
        for fold in (0, 1)
    ]
    (row,) = scores_across_folds(folders).to_dict("records")
    assert (row["ground_states_found"], row["ground_states_total"]) == (3, 3)
    assert (row["seeds"], row["ground_states_seeds"]) == (3, 1)


def test_a_single_fold_pools_what_it_holds_out(reference: pd.DataFrame, tmp_path: Path) -> None:
    folder = write_charge_order(tmp_path, reference, fold=0, seed=1, factor=1.0)
    (row,) = scores_across_folds([folder]).to_dict("records")
    assert (row["folds"], row["seeds"], row["states"]) == (1, 1, 5)
    assert row["spearman_std"] is None
    # No composition is held out as a whole, so no ground state can be asked for.
    assert (row["ground_states_found"], row["ground_states_total"]) == (None, 0)


def test_a_blind_model_is_blind_whatever_its_folds_differ_by(
    reference: pd.DataFrame, tmp_path: Path
) -> None:
    """Pairs of charge orders are one model's: the difference between two models orders none of them."""
    blind = reference.groupby("ion_key")["formation_mev_fu"].transform("mean")
    folders = [
        write_charge_order(tmp_path, reference, fold=fold, seed=1, factor=0.0, shift=blind + 40.0 * fold)
        for fold in (0, 1)
    ]
    (row,) = scores_across_folds(folders).to_dict("records")
    assert row["redox_spread_ratio"] == pytest.approx(0, abs=1e-9)
    assert row["redox_pairs_ordered"] == 0.5


@pytest.mark.parametrize("count", [1, 10])
def test_a_state_that_every_fold_holds_out_counts_once(
    reference: pd.DataFrame, tmp_path: Path, count: int
) -> None:
    """States with frames for testing; of ten, all of the compared composition."""
    tested = reference.loc[reference["x"] == 0.5, "state_key"].iloc[:count].tolist()
    folders = [
        write_charge_order(tmp_path, reference, fold=fold, seed=1, factor=factor, tested=tested)
        for fold, factor in ((0, 0.5), (1, 1.5))
    ]
    (row,) = scores_across_folds(folders).to_dict("records")
    assert (row["folds"], row["states"], row["states_missing"]) == (2, 10, 0)
    if count == 10:  # each energy is the mean of half and of one and a half times DFT's
        assert row["mae_mev_fu"] == pytest.approx(0, abs=1e-6)
        assert row["spearman"] == 1


def test_a_state_of_some_folds_only_is_of_another_split(reference: pd.DataFrame, tmp_path: Path) -> None:
    one = reference.loc[reference["x"] == 0.5, "state_key"].iloc[0]
    folders = [
        write_charge_order(tmp_path, reference, fold=fold, seed=1, factor=1.0, tested=tested)
        for fold, tested in ((0, [one]), (1, [one]), (2, []))
    ]
    with pytest.raises(UserError, match=f"state {one} is held out in 2 of 3 folds"):
        scores_across_folds(folders)


def test_exams_that_do_not_belong_together(reference: pd.DataFrame, tmp_path: Path) -> None:
    first = write_charge_order(tmp_path / "a", reference, fold=0, seed=1, factor=1.0)
    again = write_charge_order(tmp_path / "b", reference, fold=0, seed=1, factor=1.0)
    with pytest.raises(UserError, match=r"toy-entropy has two results of fold 0 and seed 1"):
        scores_across_folds([first, again])
    other = write_charge_order(tmp_path / "c", reference, fold=1, seed=1, factor=1.0, compared_x=0.25)
    with pytest.raises(UserError, match="compare different compositions"):
        scores_across_folds([first, other])
    (tmp_path / "d").mkdir()
    (tmp_path / "d/scores.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores\.json has no checksum"):
        scores_across_folds([tmp_path / "d"])
    with pytest.raises(UserError, match="no model was given"):
        charge_order_overview([], tmp_path / "out")


@pytest.mark.draws
def test_overview_has_a_row_a_model_and_a_figure(reference: pd.DataFrame, tmp_path: Path) -> None:
    folders = [
        write_charge_order(tmp_path, reference, fold=0, seed=1, factor=factor, variant=variant)
        for variant, factor in (("entropy", 1.0), ("baseline", 0.1))
    ]
    table = charge_order_overview(folders, tmp_path / "out")
    assert table["id"].tolist() == ["toy-baseline-f0-s1", "toy-entropy-f0-s1"]
    assert table["redox_spread_ratio"].tolist() == pytest.approx([0.1, 1.0])
    assert table["headline"].all()
    written = pd.read_csv(tmp_path / "out/overview.csv")
    assert written["states_spearman"].tolist() == [1, 1]
    assert len(pd.read_csv(tmp_path / "out/pooled.csv")) == 2
    svg = (tmp_path / "out/overview.svg").read_text()
    for text in ("toy, baseline", "toy, entropy", "Spearman of relative energies"):
        assert text in svg
    assert (tmp_path / "out/overview.png").stat().st_size > 0


def test_looks_of_many_arrangements_differ() -> None:
    looks = looks_of([str(number) for number in range(64)])
    assert len(set(looks.values())) == 64
