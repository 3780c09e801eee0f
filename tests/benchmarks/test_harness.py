"""Both sides do the same task, and runs are kept: tiny networks, few frames."""

import pytest

from benchmarks import runner
from benchmarks.cases import make_case, make_data

pytestmark = pytest.mark.slow

TINY = {
    "painn": {"n_atom_basis": 8, "n_interactions": 3, "cutoff": 3.0, "n_rbf": 6},
    "chgnet": {
        **{"atom_fea_dim": 8, "bond_fea_dim": 8, "angle_fea_dim": 8, "num_radial": 7, "num_angular": 5},
        **{"n_conv": 2, "atom_graph_cutoff": 3.5, "bond_graph_cutoff": 2.5},
    },
}


def case_of(family, folder, **options):
    from workflow_lib.models.registry import FAMILIES

    values = FAMILIES[family].hyperparameters(**TINY[family]).model_dump(mode="json")
    return make_case(family, make_data(folder), max_frames=9, hyperparameters=values, **options)


def our_loss(case, begin, count):
    """Loss and gradients of the first ``count`` training frames in our trainer."""
    import torch

    from workflow_lib.stages.training.data import LabelledGraphs
    from workflow_lib.stages.training.loss import Loss

    labels = [term.label for term in case.training.loss]
    data = LabelledGraphs(begin.potential, begin.sets["train"], begin.graphs["train"], labels)
    batch, targets = data.batch(range(count))
    begin.potential.train()
    loss = Loss(case.training.loss)
    value = loss.total(loss.sums(begin.potential(batch), targets))
    value.backward()
    gradients = {name: p.grad for name, p in begin.potential.named_parameters() if p.grad is not None}
    return float(value.detach()), {name: torch.clone(gradient) for name, gradient in gradients.items()}


def same(ours, theirs, names):
    """Values and gradients equal to single precision; ``names`` maps the peer's to our parameters."""
    import torch

    assert ours[0] == pytest.approx(theirs[0], rel=1e-4)
    assert len(theirs[1]) == len(ours[1]) > 10
    for name, gradient in theirs[1].items():
        # Sums over a thousand edges in single precision.
        assert torch.linalg.norm(ours[1][names(name)] - gradient) < 1e-3 * torch.linalg.norm(gradient), name


def test_schnetpack_minimises_the_same_function(tmp_path, monkeypatch):
    from schnetpack.data.loader import _atoms_collate_fn

    from benchmarks import ours
    from benchmarks.peers import schnetpack as peer

    monkeypatch.chdir(tmp_path)  # upstream leaves a lock file
    case = case_of("painn", tmp_path / "data")
    assert case.train_frames == 8  # whole batches: MACE drops the rest
    begin = ours.start(case)
    peer.write_database(case, begin, tmp_path)
    data = peer.data_module(case, tmp_path)
    data.setup()
    task = peer.make_task(case, peer.network(case, begin))
    batch = _atoms_collate_fn([data.train_dataset[index] for index in range(3)])
    target = {name: batch[name].clone() for name in ("energy", "forces")}
    loss = task.loss_fn(task.predict_without_postprocessing(batch), target)
    loss.backward()
    gradients = {name: p.grad for name, p in task.model.named_parameters() if p.grad is not None}
    same(
        our_loss(case, begin, 3),
        (float(loss.detach()), gradients),
        lambda name: name.replace("output_modules.0", "readout"),
    )


def test_chgnet_minimises_the_same_function(tmp_path):
    import copy

    from chgnet.data.dataset import collate_graphs

    from benchmarks import ours
    from benchmarks.peers import chgnet as peer

    case = case_of("chgnet", tmp_path / "data")
    begin = ours.start(case)
    expected = our_loss(case, begin, 3)
    begin.potential.zero_grad()
    net = copy.deepcopy(peer.network(begin)).train()
    net.composition_model.requires_grad_(False)
    trainer = peer.make_trainer(case, net)
    data = peer.dataset(begin.sets["train"], net, moments=True)
    graphs, targets = collate_graphs([data[index] for index in range(3)])
    for graph in graphs:
        graph.atom_frac_coord.requires_grad = True
    loss = trainer.criterion(targets, net(graphs, task="efm"))["loss"]
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    same(expected, (float(loss.detach()), gradients), lambda name: f"net.{name}")


def test_repetitions_are_measured_once_and_kept(tmp_path, monkeypatch):
    runner.prepare_processes(["painn"])
    case = case_of("painn", tmp_path / "data", epochs=2)
    [pair] = runner.repetitions(case, tmp_path / "store", count=1, judged=1)
    n_atoms = pair.ours.labels["forces"]
    assert pair.ours.labels == pair.peer.labels == {"energy": 8, "forces": n_atoms}
    assert n_atoms > 8 * 20
    for run in (pair.ours, pair.peer):
        assert len(run.seconds) == 1 and run.cpu_seconds[0] > 0
        assert 0 < run.energy_mae < 1e3 and 0 < run.force_mae < 1e4
        assert run.force_mae != run.start_force_mae

    def no_run(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(runner, "execute", no_run)
    assert list(runner.repetitions(case, tmp_path / "store", count=1, judged=1)) == [pair]
    with pytest.raises(AssertionError, match="measured again"):
        list(runner.repetitions(case.with_seed(1, 3), tmp_path / "store", count=1, judged=1))


def test_both_sides_walk_the_same_way(tmp_path, monkeypatch):
    """Dynamics: from the same momenta to the same energies, for two structures side by side."""
    from benchmarks import dynamics

    monkeypatch.chdir(tmp_path)  # upstream leaves a lock file
    case = case_of("painn", tmp_path / "data", epochs=2)
    found = dynamics.measure(case, tmp_path, turns=1, structures=2, steps=10, repeat=(1, 1, 1))
    assert found.evaluations == 22 and len(found.ours) == len(found.peer) == 1
    assert found.difference < 1e-3


def test_a_failed_run_shows_its_log(tmp_path):
    runner.prepare_processes(["painn"])
    case = case_of("painn", tmp_path / "data", epochs=2)
    (tmp_path / "data/frames.parquet").unlink()
    with pytest.raises(RuntimeError, match=r"frames\.parquet"):
        runner.execute(runner.OURS, "train", case, tmp_path / "run")
