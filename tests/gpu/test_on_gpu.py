"""What a GPU has to prove: the numbers of the CPU, for every family; and its speed (`make test-gpu`)."""

import time

import numpy as np
import pytest
import torch
from networks import SMALL
from torch_sim.models.interface import validate_model_outputs
from training_case import run, write_case

from workflow_lib.models.neighbours import ordered, search_cpu, search_device
from workflow_lib.models.outside import load_predictor
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.testing import check_predictor, olivine
from workflow_lib.models.trained import TrainedModel
from workflow_lib.simulation.dynamics.run import run_dynamics
from workflow_lib.simulation.dynamics.settings import MolecularDynamics
from workflow_lib.simulation.relaxation import relax
from workflow_lib.simulation.torchsim import TorchSimModel

pytestmark = pytest.mark.gpu

# Sums in another order, in double precision.
SAME = 1e-8


def plain(filled: int, seed: int = 0):
    atoms = olivine(filled=filled, seed=seed)
    atoms.arrays.pop("oxidation_states", None)
    return atoms


def strained(filled: int):
    atoms = plain(filled)
    atoms.set_cell(atoms.cell[:] @ np.diag([1.02, 0.99, 1.01]), scale_atoms=True)
    return atoms


def test_conformance(pair, gpu):
    """The promises of a predictor and of torch-sim's interface."""
    _, on_gpu = pair
    check_predictor(on_gpu, [plain(2), plain(4)], tolerance=SAME)
    validate_model_outputs(TorchSimModel(on_gpu), gpu, torch.float64)


def test_numbers_of_the_cpu(pair):
    """Energy, forces, stress, moments, charges and embeddings, structure by structure and from edges."""
    on_cpu, on_gpu = pair
    atoms = [plain(2), plain(3, 1), plain(4)]
    for one, other in zip(
        on_cpu.predict(atoms, stress=True), on_gpu.predict(atoms, stress=True), strict=True
    ):
        assert one.energy == pytest.approx(other.energy, abs=SAME)
        for name in ("forces", "stress", "magmoms", "charges", "embeddings"):
            left, right = getattr(one, name), getattr(other, name)
            assert (left is None) == (right is None)
            assert left is None or np.allclose(left, right, rtol=0, atol=SAME), name
    outputs = []
    for model in pair:
        sim = TorchSimModel(model)
        sim.compute_stress = True
        outputs.append({name: value.cpu() for name, value in sim(sim.initial_state(atoms)).items()})
    for name, value in outputs[0].items():
        assert torch.allclose(value, outputs[1][name], rtol=0, atol=SAME), name


def test_neighbours_of_the_cpu(gpu):
    atoms = plain(4)
    where = (
        torch.tensor(atoms.positions),
        torch.tensor(atoms.cell[:])[None],
        torch.zeros(28, dtype=torch.int64),
    )
    here = ordered(search_cpu(*where, 5.5), 28)
    there = ordered(search_device(*(item.to(gpu) for item in where), 5.5), 28)
    assert torch.equal(here[0], there[0].cpu()) and torch.equal(here[1], there[1].cpu())


@pytest.mark.parametrize("optimiser", ["fire", "lbfgs"])
def test_relaxation_of_positions_and_cell(gpu, optimiser):
    """Shipped CHGNet, in single precision: the ends of CPU and GPU within 0.1 meV/atom."""
    ends = []
    for device in ("cpu", "cuda"):
        model = load_predictor("chgnet-0.3.0", device)
        stop = {"fmax": 0.1, "smax": 0.5, "max_steps": 40, "cell": True, "optimiser": optimiser}
        ends.append(relax(model, [strained(4), strained(2)], batch_size=2, **stop))
    for one, other in zip(*ends, strict=True):
        assert one.status == other.status
        assert abs(one.energy - other.energy) < 1e-4 * len(one.atoms)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_step(family, frames, rule, tmp_path, gpu):
    """One epoch on the GPU gives the loss of one on the CPU (single precision, the order of sums)."""
    import pandas as pd

    write_case(tmp_path, frames, per_state=2)
    losses = []
    for device in ("cpu", "cuda"):
        hyperparameters = FAMILIES[family].hyperparameters(**SMALL[family], dtype="float64")
        run(
            tmp_path,
            tmp_path / device,
            rule,
            family=family,
            hyperparameters=hyperparameters,
            name=family,
            epochs=1,
            device=device,
        )
        losses.append(pd.read_csv(tmp_path / device / "history.csv")["train_loss"].iloc[-1])
        assert TrainedModel.load(tmp_path / device).card["status"] == "ok"
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_molecular_dynamics(gpu, tmp_path):
    """A tenth of a picosecond of NVE on the GPU, within the limits that a run sets itself."""
    model = load_predictor("chgnet-0.3.0", "cuda")
    values = {"ensemble": "nve", "time_step_fs": 1.0, "production_ps": 0.1, "record_fs": 5.0}
    # So short a run measures no drift: the limit only catches an explosion.
    values["limits"] = {"drift_mev_atom_ps": 500.0}
    wanted = MolecularDynamics.model_validate(values)
    run_dynamics(
        model, [plain(4)], wanted, temperatures=[300.0], folder=tmp_path / "md", seed=1, title="gpu"
    )


def test_speed(gpu, capsys):
    """Seconds per structure and evaluation, CPU against GPU, shipped CHGNet; printed, not judged."""
    lines = [f"{'atoms':>6} {'at once':>8} {'cpu ms':>9} {'gpu ms':>9} {'ratio':>6}"]
    for repeat, sizes in (((1, 1, 1), (1, 16)), ((1, 5, 1), (1, 8))):
        atoms = plain(4).repeat(repeat)
        for size in sizes:
            seconds = []
            for device, calls in (("cpu", 3), ("cuda", 20)):
                sim = TorchSimModel(load_predictor("chgnet-0.3.0", device))
                state = sim.initial_state([atoms] * size)
                sim(state)
                torch.cuda.synchronize()
                started = time.perf_counter()
                for _ in range(calls):
                    state.positions = state.positions + 1e-3 * torch.randn_like(state.positions)
                    sim(state)
                torch.cuda.synchronize()
                seconds.append((time.perf_counter() - started) / calls / size * 1e3)
            ratio = seconds[0] / seconds[1]
            lines.append(f"{len(atoms):6} {size:8} {seconds[0]:9.2f} {seconds[1]:9.2f} {ratio:6.1f}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))
