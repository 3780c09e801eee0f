"""The stage with small real networks on the embedded DFT frames."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from samples import REFERENCE, last_of_paths, sample_table

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import read_json, write_json
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.splits import Fold, Splits
from workflow_lib.frames.table import read_parquet, write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_to_card
from workflow_lib.results_reading import seal
from workflow_lib.simulation.settings import Stop
from workflow_lib.stages.charge_order.reference import build_reference
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.embedding.extract import untrained
from workflow_lib.stages.embedding.figures import embedding_overview
from workflow_lib.stages.embedding.run import run_embedding
from workflow_lib.stages.embedding.settings import EmbeddingSettings

SETTINGS = EmbeddingSettings(classifier_folds=4)
STOP = Stop(fmax=0.05, max_steps=3)
TEST_STATES = ("1x1x1:Na1001:Fe2323", "1x1x1:Na1000:Fe2333", "1x1x1:Na1110:Fe2232")
HYPERPARAMETERS = {
    "painn": {"n_atom_basis": 8, "n_rbf": 6, "cutoff": 3.0, "n_interactions": 2},
    "mace": {"num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e", "r_max": 3.0, "max_L": 0},
}


@pytest.fixture(scope="module")
def data(frames: list[Frame], host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last two relaxation frames of each state, a split by state, and DFT's answers."""
    folder = tmp_path_factory.mktemp("data")
    chosen: dict[str, list[Frame]] = {}
    for frame in frames:
        if frame.kind == "relaxation":
            chosen[frame.group] = [*chosen.get(frame.group, []), frame][-2:]
    kept = [frame for group in chosen.values() for frame in group]
    write_parquet(kept, folder / "frames.parquet")
    sets: dict[str, list[tuple[str, str]]] = {"train": [], "validation": [], "test": []}
    for frame in kept:
        sets["test" if frame.state_key in TEST_STATES else "train"].append(
            (frame.frame_id, frame.state_key)
        )
    Splits("state", 711, (Fold.of(0, sets),)).save(folder / "splits.json")
    build_reference(folder / "frames.parquet", host, folder)
    return folder


def make_model(
    folder: Path,
    rule: RedoxRule,
    variant: str,
    *,
    family: str = "painn",
    elements: tuple[int, ...] = (8, 11, 15, 26),
    **card: object,
) -> Path:
    """An own network whose weights are moved away from where they started, as training would."""
    import torch

    embedding = {"baseline": "none", "entropy": "surrogate"}[variant]
    species = species_alphabet(rule, elements, embedding)
    hyperparameters = FAMILIES[family].hyperparameters.model_validate(HYPERPARAMETERS[family])
    potential = FAMILIES[family].load().build(hyperparameters, species, init="scratch", seed=5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in potential.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(0.3 * parameter.std(unbiased=False) * noise)
    meaning = {
        "name": family,
        "family": family,
        "init": "scratch",
        "variant": variant,
        "fold": 0,
        "seed": 5,
        "hyperparameters": hyperparameters.model_dump(),
        "species": species_to_card(species),
        "redox_embedding": embedding,
        "redox": rule.model_dump(),
        "energy_reference": REFERENCE,
        "status": "ok",
        "training": {"steps": 0},
    }
    TrainedModel(potential, meaning | card).save(folder)
    return folder


def run(
    data: Path, model: Path, host: Host, out: Path, settings: EmbeddingSettings = SETTINGS, **paths: Path
) -> dict:
    return run_embedding(
        model=TrainedModel.load(model),
        frames_path=paths.get("frames", data / "frames.parquet"),
        splits_path=paths.get("splits", data / "splits.json"),
        reference_dir=data,
        host=host,
        settings=settings,
        polaron_distortion=0.06,
        stop=STOP,
        subset=DatasetSettings(subset_elements=("Na", "Fe", "P", "O"), energy_reference=REFERENCE),
        seed=711,
        work=out.parent / "work",
        out=out,
    )


@pytest.fixture(scope="module")
def results(
    data: Path, rule: RedoxRule, host: Host, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Both variants of a PaiNN, by variant."""
    root = tmp_path_factory.mktemp("embedding")
    for variant in ("baseline", "entropy"):
        model = make_model(root / "models" / variant, rule, variant)
        run(data, model, host, root / f"painn-{variant}-f0-s5")
    return {variant: root / f"painn-{variant}-f0-s5" for variant in ("baseline", "entropy")}


def test_points_are_the_redox_atoms_of_all_frames(results: dict[str, Path], frames: list[Frame]):
    points = pd.read_parquet(results["baseline"] / "points.parquet")
    own = points[points["origin"] == "frame"]
    assert Counter(own["network"]) == {"trained": 32 * 4, "untrained": 32 * 4}
    trained = own[own["network"] == "trained"]
    assert set(trained.loc[trained["set"] == "test", "state_key"]) == set(TEST_STATES)
    assert trained["reference"].sum() == 16 * 4  # one end geometry a state
    assert trained["embedding"].map(len).unique().tolist() == [8]
    path = points[points["origin"] == "path"]
    assert sorted(path["step"].unique()) == [0, 1, 2, 3]
    ends = last_of_paths(sample_table()).query("x == 0.5")
    key_of = {frame.group: frame.state_key for frame in frames}
    assert set(path["state_key"]) == {key_of[ends["energy"].idxmin()]}  # DFT's lowest at x = 1/2
    assert Counter(path[path["step"] == 0]["oxidation_state"]) == {2: 2, 3: 2}


def test_embeddings_are_the_models(results: dict[str, Path], frames: list[Frame]):
    model = TrainedModel.load(results["entropy"].parent / "models/entropy")
    points = pd.read_parquet(results["entropy"] / "points.parquet")
    by_id = {frame.frame_id: frame for frame in frames}
    rows = points[(points["origin"] == "frame") & (points["network"] == "trained")]
    for frame_id in sorted(set(rows["frame_id"]))[:3]:
        own = rows[rows["frame_id"] == frame_id]
        [answer] = model.predict([frame_to_atoms(by_id[frame_id])])
        # One structure against a batch: the order of float32 sums differs, a few 1e-7 of values
        # of size one.
        np.testing.assert_allclose(
            np.stack(own["embedding"].to_list()), answer.embeddings[own["atom"]], atol=2e-5
        )
        assert own["oxidation_state"].tolist() == by_id[frame_id].oxidation_states[own["atom"]].tolist()


def test_scores_and_the_untrained_network(results: dict[str, Path]):
    scores = {name: json.loads((folder / "scores.json").read_text()) for name, folder in results.items()}
    for own in scores.values():
        assert own["headline"] == "held_out"
        assert own["by_set"]["held_out"]["states"] == 3
        assert sum(own["by_set"]["all"]["atoms"].values()) == 32 * 4
        assert own["redox_silhouette"] == own["by_set"]["held_out"]["silhouette"]
        assert own["redox_accuracy_untrained"] == own["by_set_untrained"]["held_out"]["accuracy"]
        assert own["relaxation"] == own["relaxation"] | {"status": "unconverged", "steps": 3}
    # A surrogate species is another row of the embedding table: separate before any training. The
    # random weights of a charge-blind network see bond lengths only.
    assert scores["entropy"]["redox_accuracy_untrained"] == 1.0
    assert (
        scores["entropy"]["redox_silhouette_untrained"]
        > scores["baseline"]["redox_silhouette_untrained"] + 0.2
    )


def test_a_test_frame_of_a_state_that_trains_is_not_held_out(
    data: Path, rule: RedoxRule, host: Host, tmp_path: Path
):
    """Frames split one by one: the first frame of each state trains, the second tests."""
    table = pd.read_parquet(data / "frames.parquet")
    pairs = list(zip(table["frame_id"], table["state_key"], strict=True))
    fold = Fold.of(0, {"train": pairs[::2], "validation": [], "test": pairs[1::2]})
    Splits("frame", 711, (fold,)).save(tmp_path / "splits.json")
    model = make_model(tmp_path / "model", rule, "baseline")
    scores = run(data, model, host, tmp_path / "by-frame", splits=tmp_path / "splits.json")
    assert scores["headline"] == "all"
    assert scores["by_set"]["held_out"] is None
    points = pd.read_parquet(tmp_path / "by-frame/points.parquet")
    assert set(points.loc[points["origin"] == "frame", "set"]) == {"train"}


def test_a_state_in_a_supercell_is_no_other_state(
    data: Path, results: dict[str, Path], rule: RedoxRule, host: Host, tmp_path: Path
):
    """Copies of one crystal on both sides of a classifier would say how well it recalls."""
    splits = Splits.load(data / "splits.json")
    first, second, _ = sorted(splits.folds[0].states["test"])
    replace(splits, crystals={second: first}).save(tmp_path / "splits.json")
    model = make_model(tmp_path / "model", rule, "baseline")
    scores = run(data, model, host, tmp_path / "out", splits=tmp_path / "splits.json")
    before = json.loads((results["baseline"] / "scores.json").read_text())
    for part in ("all", "held_out"):
        assert scores["by_set"][part]["atoms"] == before["by_set"][part]["atoms"]
        assert scores["by_set"][part]["states"] == before["by_set"][part]["states"] - 1


def test_a_frame_on_no_site_is_of_the_state_that_it_was_split_by(
    data: Path, results: dict[str, Path], rule: RedoxRule, host: Host, tmp_path: Path
):
    """As its group alone it would be one more group of the classifier."""
    frames = read_parquet(data / "frames.parquet")
    off = next(frame for frame in frames if frame.state_key == TEST_STATES[0])
    moved = [with_labels(frame, state_key=None) if frame is off else frame for frame in frames]
    write_parquet(moved, tmp_path / "frames.parquet")
    splits = replace(Splits.load(data / "splits.json"), only_states={off.group: TEST_STATES[0]})
    splits.save(tmp_path / "splits.json")
    paths = {"frames": tmp_path / "frames.parquet", "splits": tmp_path / "splits.json"}
    scores = run(data, make_model(tmp_path / "model", rule, "baseline"), host, tmp_path / "out", **paths)
    before = json.loads((results["baseline"] / "scores.json").read_text())
    for part in ("all", "held_out"):
        assert scores["by_set"][part]["states"] == before["by_set"][part]["states"]


@pytest.mark.parametrize("family", ["painn", "mace"])
def test_untrained_network_is_where_training_started(
    family: str, rule: RedoxRule, frames: list[Frame], tmp_path: Path
):
    species = species_alphabet(rule, (8, 11, 15, 26), "surrogate")
    hyperparameters = FAMILIES[family].hyperparameters.model_validate(HYPERPARAMETERS[family])
    start = FAMILIES[family].load().build(hyperparameters, species, init="scratch", seed=5)
    folder = make_model(tmp_path, rule, "entropy", family=family)
    moved = TrainedModel.load(folder)
    # Constants of what the model trained on, which is not known here any more.
    graphs = [start.graph(moved.structure(frame_to_atoms(frame))) for frame in frames[:5]]
    start.set_statistics(graphs)
    moved.potential.set_statistics(graphs)
    rebuilt = untrained(moved)
    mine, wanted = rebuilt.potential.state_dict(), start.state_dict()
    assert mine.keys() == wanted.keys()
    for name, tensor in mine.items():
        assert np.array_equal(tensor.numpy(), wanted[name].numpy()), name
    now = moved.potential.state_dict()
    assert any(not np.array_equal(mine[name].numpy(), now[name].numpy()) for name in now)
    [one], [other] = (
        m.predict([frame_to_atoms(frames[0])]) for m in (rebuilt, TrainedModel(start, moved.card))
    )
    # Equal weights; with and without gradients the sums may run in another order (float32).
    np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-5)


@pytest.mark.draws
def test_two_runs_write_the_same(results: dict[str, Path], data: Path, host: Host, tmp_path: Path):
    first = results["entropy"]
    run(data, first.parent / "models/entropy", host, tmp_path / first.name)
    for name in ("scores.json", "pca.csv", "pca.svg", "pca.png", "points.parquet"):
        assert (first / name).read_bytes() == (tmp_path / first.name / name).read_bytes(), name


def test_all_atoms_where_held_out_states_are_too_few(
    data: Path, results: dict[str, Path], host: Host, tmp_path: Path
):
    settings = SETTINGS.model_copy(update={"min_atoms": 1000})
    scores = run(data, results["baseline"].parent / "models/baseline", host, tmp_path / "m", settings)
    assert scores["headline"] == "all"
    assert scores["by_set"]["held_out"] is None
    assert scores["redox_silhouette"] == scores["by_set"]["all"]["silhouette"]


def test_models_of_other_elements_score_the_same_atoms(
    data: Path, rule: RedoxRule, host: Host, tmp_path: Path
):
    """The one that knows manganese too trained on all frames; its numbers stand beside the other's."""
    frames = read_parquet(data / "frames.parquet")
    manganese = np.where(np.arange(len(frames[0])) == np.flatnonzero(frames[0].numbers == 26)[0], 25, 0)
    mixed = replace(
        frames[0],
        frame_id="mixed",
        state_key=None,
        group="mixed",
        numbers=np.where(manganese, manganese, frames[0].numbers),
    )
    write_parquet([*frames, mixed], tmp_path / "frames.parquet")
    scores = [
        run(
            *(
                data,
                make_model(tmp_path / name, rule, "baseline", elements=elements),
                host,
                tmp_path / f"e-{name}",
            ),
            frames=tmp_path / "frames.parquet",
        )
        for name, elements in (("all", (8, 11, 15, 25, 26)), ("subset", (8, 11, 15, 26)))
    ]
    assert [own["frames"] for own in scores] == [len(frames)] * 2
    atoms = [pd.read_parquet(tmp_path / f"e-{name}/points.parquet") for name in ("all", "subset")]
    pd.testing.assert_frame_equal(*(own[["frame_id", "atom", "network"]] for own in atoms))


def test_a_diverged_model_has_a_reason_and_no_numbers(
    data: Path, rule: RedoxRule, host: Host, results: dict[str, Path], tmp_path: Path
):
    model = make_model(tmp_path / "model", rule, "entropy", status="diverged", seed=6)
    out = tmp_path / "painn-entropy-f0-s6"
    run(data, model, host, out)
    scores = json.loads((out / "scores.json").read_text())
    assert scores["status"] == "diverged"
    assert [scores[k] for k in ("redox_silhouette", "redox_accuracy", "redox_accuracy_untrained")] == [
        None
    ] * 3
    assert pd.read_parquet(out / "points.parquet").empty
    table = embedding_overview([out, *results.values()], tmp_path / "overview")
    assert table["status"].tolist() == ["ok", "ok", "diverged"]
    # The overview draws the first that has embeddings.
    drawn = pd.read_csv(tmp_path / "overview/overview_points.csv")
    assert set(drawn["id"]) == {"painn-baseline-f0-s5", "painn-entropy-f0-s5"}
    for name in ("overview.svg", "overview.png", "overview.csv"):
        assert (tmp_path / "overview" / name).is_file()


def test_one_charge_state_is_refused(
    data: Path, results: dict[str, Path], host: Host, frames: list[Frame], tmp_path: Path
):
    full = [f for f in frames if f.state_key == "1x1x1:Na1111:Fe2222"]
    write_parquet(full, tmp_path / "frames.parquet")
    model = results["baseline"].parent / "models/baseline"
    with pytest.raises(UserError, match=r"1 of two charge states \(2\+\)"):
        run(data, model, host, tmp_path / "out", frames=tmp_path / "frames.parquet")
    bare = [with_labels(frame, oxidation_states=None) for frame in full]
    write_parquet(bare, tmp_path / "bare.parquet")
    with pytest.raises(UserError, match=r"no frame of the chemical subset .* with charge states"):
        run(data, model, host, tmp_path / "out", frames=tmp_path / "bare.parquet")
    other = [with_labels(frame, energy_reference="VASP/PBE+U") for frame in frames[:20]]
    write_parquet(other, tmp_path / "other.parquet")
    with pytest.raises(UserError, match="of the model's level"):
        run(data, model, host, tmp_path / "out", frames=tmp_path / "other.parquet")
    empty = {"train": [], "validation": [], "test": []}
    Splits("state", 711, (Fold.of(3, empty),)).save(tmp_path / "splits.json")
    with pytest.raises(UserError, match=r"holds no fold 0; it has \[3\]"):
        run(data, model, host, tmp_path / "out", splits=tmp_path / "splits.json")
    assert not (tmp_path / "out").exists()


def test_a_job_killed_again_and_again_ends_the_same(
    data: Path, rule: RedoxRule, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after every batch: no batch is computed twice, no byte of the results differs."""
    model = make_model(tmp_path / "models/entropy", rule, "entropy")
    predict, computed = TrainedModel.predict, [0]

    def killed(*arguments: Any, **named: Any) -> Any:
        if computed[0] and computed[0] != kills[-1]:
            kills.append(computed[0])
            raise KeyboardInterrupt
        computed[0] += 1
        return predict(*arguments, **named)

    kills = [0]
    monkeypatch.setattr(TrainedModel, "predict", killed)
    for attempt in range(100):
        try:
            run(data, model, host, tmp_path / "killed/painn-entropy-f0-s5")
            break
        except KeyboardInterrupt:
            assert len(kills) == attempt + 2
    monkeypatch.setattr(TrainedModel, "predict", predict)
    run(data, model, host, tmp_path / "whole/painn-entropy-f0-s5")
    for name in ("points.parquet", "scores.json", "pca.csv"):
        one, other = (tmp_path / way / "painn-entropy-f0-s5" / name for way in ("killed", "whole"))
        assert one.read_bytes() == other.read_bytes()
    frames = read_json(tmp_path / "killed/painn-entropy-f0-s5/scores.json")["frames"]
    assert len(kills) > 2
    assert computed[0] == 2 * math.ceil(frames / SETTINGS.batch_size)
    assert not list((tmp_path / "killed/work").iterdir()), "what was kept is no longer needed"


def test_overview_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no embeddings to show"):
        embedding_overview([], tmp_path)
    write_json(tmp_path / "m/scores.json", {"id": "m"})
    seal(tmp_path / "m", "embedding")
    with pytest.raises(UserError, match="lacks model"):
        embedding_overview([tmp_path / "m"], tmp_path)
