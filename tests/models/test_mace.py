"""MACE against upstream: the same weights must give the same numbers, setting by setting."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from edge_graphs import edge_graph
from networks import build
from pydantic import ValidationError
from upstream_mace import upstream

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Species
from workflow_lib.models.hyperparameters import MaceHyperparameters
from workflow_lib.models.mace import MacePotential, building, scale_shift_mace
from workflow_lib.models.mace_ops import half_list
from workflow_lib.models.testing import evaluate
from workflow_lib.models.testing.structures import FE, GA, SPECIES, olivine, structure

# Different order of sums in double precision.
SAME = 1e-10

UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

DENSITY = {
    "interaction_first": "RealAgnosticDensityInteractionBlock",
    "interaction": "RealAgnosticDensityResidualInteractionBlock",
}
SETTINGS = {
    "defaults": {},
    "one layer, scalars": {"num_interactions": 1, "max_L": 0},
    "high degrees": {"max_L": 2, "max_ell": 3, "correlation": 3, "num_interactions": 3},
    "residual": {"interaction_first": "RealAgnosticResidualInteractionBlock"},
    "no residual": {"interaction": "RealAgnosticInteractionBlock"},
    "density": DENSITY,
    "as the authors": {**DENSITY, "distance_transform": "Agnesi", "pair_repulsion": True},
    "soft": {"distance_transform": "Soft", "r_max": 4.5},
}


@pytest.fixture(autouse=True)
def restore_environment(monkeypatch):
    """Importing upstream's calculator sets the variable again: not for the tests that follow."""
    monkeypatch.setenv(UNSAFE, "0")  # so that the end of the test takes it away or puts it back


@pytest.mark.parametrize("name", SETTINGS)
def test_values_are_those_of_upstreams_calculator(name):
    """Same weights, same energy, forces, stress and descriptors."""
    from mace.calculators import MACECalculator

    values = SETTINGS[name]
    # Upstream knows no relabelled sites: it computes every Z-dependent term with the label.
    potential = build("mace", surrogate_z="surrogate", **values)
    item = structure(filled=2)
    potential.set_statistics([potential.graph(item)], forces_rms=0.6)
    model = upstream(potential, **values)

    atoms = Atoms(item.species, item.positions, cell=item.cell, pbc=True)
    atoms.calc = MACECalculator(models=model, device="cpu", default_dtype="float64")
    ours = evaluate(potential, item)
    forces = atoms.get_forces()
    assert np.abs(forces).max() > 1e-3
    assert float(ours["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert np.allclose(ours["forces"], forces, rtol=0, atol=SAME)
    assert np.allclose(ours["stress"][0], atoms.get_stress(voigt=False), rtol=0, atol=SAME)
    descriptors = atoms.calc.get_descriptors(atoms, invariants_only=True)
    assert np.allclose(ours["node_embeddings"], descriptors, rtol=0, atol=SAME)


@pytest.mark.parametrize("name", SETTINGS)
def test_weights_are_distributed_as_upstreams(name):
    """Which draws them once for all species, where one seed here gives each species its own."""
    hp = MaceHyperparameters(num_channels=16, dtype="float64", **SETTINGS[name])
    with building(torch.float64, 5):
        drawn = dict(scale_shift_mace(hp, SPECIES.labels).named_parameters())
    potential = MacePotential.build(hp, SPECIES, init="scratch", seed=5)
    own = dict(potential.model.named_parameters())
    assert list(own) == list(drawn)
    for key, expected in drawn.items():
        count = expected.numel()
        # Two standard deviations of n numbers differ by 1/sqrt(n) of themselves, the means by sqrt(2/n).
        assert float(own[key].std() / expected.std()) == pytest.approx(1, abs=4.5 / count**0.5), key
        assert abs(float(own[key].mean() / expected.std())) < 4.5 / count**0.5, key


@pytest.mark.parametrize("name", ["defaults", "high degrees", "as the authors"])
def test_weights_of_a_species_do_not_depend_on_the_others(name):
    labels = (11, 25, FE)
    small = {"num_channels": 4, "radial_mlp": (8, 8), "mlp_irreps": "4x0e"}
    hp = MaceHyperparameters(**{**small, **SETTINGS[name]})
    one, other = (
        MacePotential.build(hp, species, init="scratch", seed=5).model
        for species in (SPECIES, Species(labels, {z: z for z in labels}))
    )
    place = [SPECIES.labels.index(z) for z in (11, FE)], [labels.index(z) for z in (11, FE)]
    parts = [(one.node_embedding.linear, other.node_embedding.linear, 0)]
    parts += [(a.skip_tp, b.skip_tp, 1) for a, b in zip(one.interactions, other.interactions, strict=True)]
    for mine, theirs, axis in parts:
        for pair in zip(mine.weight_views(), theirs.weight_views(), strict=True):
            assert torch.equal(
                *(v.index_select(axis, torch.tensor(p)) for v, p in zip(pair, place, strict=True))
            )
    for mine, theirs in zip(one.products, other.products, strict=True):
        weights = dict(theirs.symmetric_contractions.named_parameters())
        for key, weight in mine.symmetric_contractions.named_parameters():
            assert torch.equal(weight[place[0]], weights[key][place[1]]), key


def test_gradients_by_the_weights_are_upstreams():
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric

    potential = build("mace")
    items = [structure(filled=2), structure(seed=3)]
    graphs = [potential.graph(item) for item in items]
    potential.set_statistics(graphs)
    model = upstream(potential)
    table = AtomicNumberTable(list(SPECIES.labels))
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        configs = [
            data.config_from_atoms(Atoms(item.species, item.positions, cell=item.cell, pbc=True))
            for item in items
        ]
        records = [data.AtomicData.from_config(config, z_table=table, cutoff=3.5) for config in configs]
    finally:
        torch.set_default_dtype(default)
    batch = next(iter(torch_geometric.dataloader.DataLoader(records, batch_size=2)))
    theirs = model(batch.to_dict(), training=True)
    ours = potential.train()(potential.collate(graphs))
    for output in (theirs, ours):
        (output["energy"].square().mean() + output["forces"].square().sum()).backward()
    expected = {key: value.grad for key, value in model.named_parameters()}
    scale = max(float(value.abs().max()) for value in expected.values() if value is not None)
    for key, value in potential.model.named_parameters():
        if expected[key] is None:
            assert value.grad is None or not value.grad.any(), key
        else:
            torch.testing.assert_close(value.grad, expected[key], rtol=0, atol=1e-12 * scale)


def test_statistics_are_those_of_mace_run_train():
    """Mean number of neighbours over atoms, energy scale = RMS of the forces, both saved."""
    potential = build("mace")
    graphs = [potential.graph(structure(filled=filled)) for filled in (0, 2, 4)]
    potential.set_statistics(graphs, forces_rms=0.8)
    cells = [olivine(filled=filled) for filled in (0, 2, 4)]
    expected = sum(len(neighbor_list("i", cell, 3.5)) for cell in cells) / sum(map(len, cells))
    state = potential.state_dict()
    for layer in range(2):
        assert float(state[f"model.interactions.{layer}.avg_num_neighbors"]) == pytest.approx(expected)
    assert float(state["model.scale_shift.scale"]) == pytest.approx(0.8)
    potential.set_statistics(graphs)
    assert float(potential.model.scale_shift.scale) == pytest.approx(0.8)


def test_no_neighbours_at_all():
    potential = build("mace", r_max=0.5)
    with pytest.raises(UserError, match="r_max"):
        potential.set_statistics([potential.graph(structure())])


@pytest.mark.parametrize("setting", [{"pair_repulsion": True}, {"distance_transform": "Agnesi"}])
def test_surrogates_keep_their_nucleus_unless_told_otherwise(setting):
    """Z-dependent terms take iron's Z for Fe3+ shown as Ga, or gallium's as the authors did."""
    item = structure(filled=2)
    compressed = replace(item, positions=item.positions * 0.8, cell=item.cell * 0.8)
    physical = build("mace", surrogate_z="physical", **setting)
    surrogate = build("mace", surrogate_z="surrogate", **setting)
    assert physical.model.atomic_numbers.tolist() == [8, 11, 15, 26, 26]
    assert surrogate.model.atomic_numbers.tolist() == [8, 11, 15, 26, 31]
    difference = evaluate(physical, compressed)["energy"] - evaluate(surrogate, compressed)["energy"]
    assert abs(float(difference)) > 1e-4
    plain = structure(filled=2, surrogates=False)
    assert torch.equal(evaluate(physical, plain)["energy"], evaluate(surrogate, plain)["energy"])


def test_pairs_hold_every_edge_once():
    item = structure(filled=2)
    graph = edge_graph(item, SPECIES, 6.5, torch.float64)  # beyond b and c: atoms meet their images
    index, shift = graph["edge_index"], graph["edge_shift"]
    half = half_list(index, shift)
    assert (index[0] == index[1]).any() and int(half.sum()) * 2 == index.shape[1]
    edges = {(*pair, *cell) for pair, cell in zip(index.T.tolist(), shift.int().tolist(), strict=True)}
    kept = {
        (*pair, *cell)
        for pair, cell in zip(index.T[half].tolist(), shift[half].int().tolist(), strict=True)
    }
    mirrored = {(j, i, -a, -b, -c) for i, j, a, b, c in kept}
    assert not kept & mirrored and kept | mirrored == edges


def test_embedding_rows():
    potential = build("mace")
    rows = potential.embedding_rows()
    assert rows.shape == (5, 4)
    item = structure(filled=2)
    before = evaluate(potential, item)["energy"]
    labels = list(SPECIES.labels)
    with torch.no_grad():
        rows[labels.index(GA)] = rows[labels.index(FE)]
    assert not torch.equal(evaluate(potential, item)["energy"], before)
    one_hot = torch.eye(5, dtype=torch.float64)
    embedded = potential.model.node_embedding(one_hot)
    assert torch.equal(embedded[labels.index(GA)], embedded[labels.index(FE)])


def test_import_leaves_torch_load_safe():
    """Importing mace sets a variable that would make torch.load of this process run foreign code."""
    code = (
        "import os, workflow_lib.models.mace as m; "
        f"assert {UNSAFE!r} not in os.environ; "
        "assert 'mace' in __import__('sys').modules"
    )
    clean = {key: value for key, value in os.environ.items() if key != UNSAFE}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def test_settings_out_of_range():
    irreps = [{"mlp_irreps": text} for text in ("16x1o", "8x0e+8x0e", "0x0e", "16")]
    others = ({"interaction": "Fancy"}, {"r_max": -1}, {"surrogate_z": "both"}, {"channels": 3})
    for values in (*others, *irreps):
        with pytest.raises(ValidationError):
            MaceHyperparameters(**values)
    with pytest.raises(UserError, match="scratch"):
        MacePotential.build(MaceHyperparameters(), SPECIES, init="pretrained", seed=0)
