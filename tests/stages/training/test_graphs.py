"""Graphs that are made for each batch: the same numbers as graphs that are kept, whoever makes them."""

import itertools
import shutil
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from sealed import without_id
from toy_potential import ToyHyperparameters, ToyPotential
from training_case import run

from workflow_lib.core.errors import UserError
from workflow_lib.frames.table import read_parquet
from workflow_lib.models.species import species_alphabet
from workflow_lib.results_models import training_frames
from workflow_lib.stages.training import run as run_module
from workflow_lib.stages.training.data import LabelledGraphs, load_sets, to_structure
from workflow_lib.stages.training.graphs import MadeGraphs, graphs_of
from workflow_lib.stages.training.learner import Learner

FILES = ("model.safetensors", "history.csv", "metrics.csv")


def contents(out):
    return [without_id(out / name) for name in FILES]


@pytest.fixture
def potential(rule):
    species = species_alphabet(rule, {8, 11, 15, 26}, "surrogate")
    return ToyPotential.build(ToyHyperparameters(), species, init="scratch", seed=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_made_graphs_train_to_the_last_bit_as_kept_ones(case, rule, tmp_path, workers):
    run(case, tmp_path / "kept", rule)
    shutil.rmtree(case / "checkpoints")  # else the second training would find that of the first
    run(case, tmp_path / "made", rule, graph_memory_gb=0.0, workers=workers)
    assert contents(tmp_path / "kept") == contents(tmp_path / "made")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_training_goes_on_with_made_graphs(case, rule, tmp_path, workers):
    run(case, tmp_path / "whole", rule)
    shutil.rmtree(case / "checkpoints")
    steps, taken = Learner.step, itertools.count(1)

    def killed(learner, batch):
        if next(taken) == 6:  # in the second epoch of three
            raise KeyboardInterrupt
        steps(learner, batch)

    with patch.object(Learner, "step", killed), pytest.raises(KeyboardInterrupt):
        run(case, tmp_path / "cut", rule, graph_memory_gb=0.0, workers=workers)
    run(case, tmp_path / "cut", rule, graph_memory_gb=0.0, workers=workers)
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut")


def test_where_graphs_live_is_no_part_of_the_identity(case, rule, tmp_path):
    run(case, tmp_path / "one", rule)
    run(case, tmp_path / "two", rule, graph_memory_gb=0.0, workers=1)
    assert len(list((case / "checkpoints").glob("*/identity.json"))) == 1


def test_sets_larger_than_the_limit_are_not_kept(case, rule, potential):
    frames = load_sets(case / "frames.parquet", case / "splits.json", 0, None)["train"]
    structures = [to_structure(frame, rule, "surrogate") for frame in frames]
    ids = [str(place) for place in range(len(structures))]
    kept = graphs_of(potential, structures, ids, 2.0)
    size = sum(tensor.nbytes for graph in kept for tensor in graph.values())
    # Sizes are estimated from a sample; these cells hold 24 to 28 atoms, so within 20 %.
    assert isinstance(graphs_of(potential, structures, ids, 1.2 * size / 1e9), list)
    made = graphs_of(potential, structures, ids, size / 1.2e9)
    assert isinstance(made, MadeGraphs)
    assert len(made) == len(kept)
    for one, other in zip(kept, made, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    data = [LabelledGraphs(potential, frames, graphs, ["energy", "forces"]) for graphs in (kept, made)]
    for first, second in zip(*(one.fixed_batches(4) for one in data), strict=True):
        for one, other in zip(first, second, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("group", ["x050_s2", "x025_s1"])
def test_a_frame_without_graph_is_named_before_the_first_step(group, case, rule, tmp_path, monkeypatch):
    """As CHGNet's of an isolated atom: found at a test frame after the training, it cost the model."""
    frames = [frame for frame in read_parquet(case / "frames.parquet") if frame.group == group]
    original = ToyPotential.graph

    def graph(self, structure):
        if np.array_equal(structure.positions, frames[-1].positions):
            raise UserError("an isolated atom")
        return original(self, structure)

    monkeypatch.setattr(ToyPotential, "graph", graph)
    monkeypatch.setattr(Learner, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(UserError, match=f"^frame {frames[-1].frame_id}: an isolated atom"):
        run(case, tmp_path / "out", rule)


def test_frames_without_their_graphs_are_refused(case, potential):
    frames = load_sets(case / "frames.parquet", case / "splits.json", 0, None)["train"]
    with pytest.raises(ValueError, match="frames have 0 graphs"):
        LabelledGraphs(potential, frames, [], ["energy"])


def test_errors_are_summed_over_all_parts_and_numbers_kept_of_some(case, rule, tmp_path):
    run(case, tmp_path / "whole", rule)
    with patch.multiple(run_module, TOGETHER=3, SHOWN=2):
        run(case, tmp_path / "parts", rule)
    tables = [
        pd.read_csv(tmp_path / name / "metrics.csv").drop(columns="id") for name in ("whole", "parts")
    ]
    # Batches of 3 instead of 16 frames change the last digit of single-precision forces.
    pd.testing.assert_frame_equal(*tables, rtol=1e-4)
    shown = pd.read_parquet(tmp_path / "parts" / "parity.parquet")
    assert (shown.groupby("set")["frame_id"].nunique() == 2).all()
    whole = pd.read_parquet(tmp_path / "whole" / "parity.parquet")
    assert set(shown["frame_id"]) < set(whole["frame_id"])


def test_a_large_training_set_is_judged_on_a_sample_and_the_test_set_whole(case, rule, tmp_path):
    with patch.multiple(run_module, EVALUATED=4):
        run(case, tmp_path / "out", rule)
    shown = pd.read_parquet(tmp_path / "out" / "parity.parquet")
    counts = shown.groupby("set")["frame_id"].nunique()
    sets = load_sets(case / "frames.parquet", case / "splits.json", 0, None)
    assert counts["train"] == 4 and counts["validation"] == 4
    assert counts["test"] == len(sets["test"]) > 4


@pytest.mark.parametrize(
    ("scheduler", "seen"), [("cosine", ["train"]), ("plateau", ["train", "validation"])]
)
def test_all_frames_that_trained_are_known_however_few_are_shown(scheduler, seen, case, rule, tmp_path):
    """Else ``evaluate --unseen`` takes the others for frames that the model has not seen."""
    out = tmp_path / "training" / "toy-entropy-f0-s1"
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "frames.parquet").symlink_to(case / "frames.parquet")
    with patch.multiple(run_module, EVALUATED=4, SHOWN=2):
        run(case, out, rule, epochs=1, scheduler={"kind": scheduler})
    sets = load_sets(case / "frames.parquet", case / "splits.json", 0, None)
    assert {f.frame_id for f in training_frames(out)} == {f.frame_id for name in seen for f in sets[name]}
    used = pd.read_parquet(out / "frames.parquet").groupby("set")["frame_id"].agg(set).to_dict()
    assert used == {name: {f.frame_id for f in frames} for name, frames in sets.items()}
