"""The same energies and forces with and without a kept neighbour list, for every family."""

import numpy as np
import pytest
import torch
from morse_potential import morse_model
from networks import build, card
from test_relaxation import FMAX, rattled

from workflow_lib.core.errors import UserError
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.testing import olivine
from workflow_lib.models.trained import TrainedModel
from workflow_lib.simulation.relaxation import relax
from workflow_lib.simulation.torchsim import TorchSimModel


def network(family: str) -> TrainedModel:
    potential = build(family)
    return TrainedModel(potential, card(family, potential), allow_untrained_stress=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trajectory_does_not_see_the_skin(family):
    """Thirty steps of a walk in which the list is made again; two systems, cells that strain a little."""
    model, rng = network(family), np.random.default_rng(1)
    kept, new = TorchSimModel(model), TorchSimModel(model, skin=0.0)
    kept.compute_stress = new.compute_stress = True
    atoms = [olivine(filled=2), olivine(filled=4)]
    for item in atoms:
        item.arrays.pop("oxidation_states", None)
    for step in range(30):
        for item in atoms:
            item.positions += rng.normal(0, 0.03, (len(item), 3))
            item.set_cell(item.cell[:] @ (np.eye(3) + rng.normal(0, 1e-3, (3, 3))), scale_atoms=True)
        state = kept.initial_state(atoms)
        one, other = kept(state), new(state)
        for name in ("energy", "forces", "stress"):
            # Asked for: 1e-6. The same edges in the same order leave no difference at all.
            assert torch.equal(one[name], other[name]), (step, name)
    assert kept.neighbours.built < new.neighbours.built == 30
    # Another order of the edges than in a graph of its own, in double precision.
    for single, energy in zip(model.predict(atoms, stress=True), one["energy"].tolist(), strict=True):
        assert single.energy == pytest.approx(energy, abs=1e-8)
    forces = np.concatenate([item.forces for item in model.predict(atoms)])
    assert np.allclose(forces, one["forces"].numpy(), rtol=0, atol=1e-8)


def test_positions_leave_the_device_at_the_end_only(monkeypatch):
    """However many steps: what comes back in between is a few numbers a system."""
    counts = []
    for steps in (5, 15):
        model, copies, genuine = network("painn"), [], torch.Tensor.cpu
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.Tensor, "cpu", lambda self, *a, g=genuine, c=copies: c.append(1) or g(self, *a)
            )
            [result] = relax(model, [olivine()], fmax=1e-4, max_steps=steps, batch_size=1)
        assert result.steps == steps
        counts.append(len(copies))
    assert counts[0] == counts[1] < 10


class Full:
    """A device whose memory holds at most ``most`` structures."""

    def __init__(self, model, most):
        self.evaluate, self.most, self.sizes = model.evaluate, most, []
        model.evaluate = self

    def __call__(self, structures, *, stress=False):
        self.sizes.append(len(structures))
        if len(structures) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.evaluate(structures, stress=stress)


def test_out_of_memory_halves_the_batch_and_says_so(capsys):
    atoms = [rattled(seed, sodium=sodium) for seed, sodium in enumerate((3, 1, 2, 3, 0))]
    stop = {"fmax": FMAX, "max_steps": 500, "optimiser": "lbfgs"}
    expected = relax(morse_model(), atoms, batch_size=1, **stop)
    model = morse_model()
    full = Full(model, 1)
    results = relax(model, atoms, batch_size=5, **stop)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in said] == [
        "out of memory on cpu with 5 structures at once",
        "out of memory on cpu with 2 structures at once",
    ]
    assert full.sizes[:2] == [5, 2] and max(full.sizes[2:]) == 1
    for result, single in zip(results, expected, strict=True):
        assert (result.steps, result.status) == (single.steps, "converged")
        assert result.energy == pytest.approx(single.energy, abs=1e-6)


def test_a_structure_too_large_for_the_device_is_one_line():
    model = morse_model()
    Full(model, 0)
    with pytest.raises(UserError, match="a single structure does not fit the memory of cpu") as found:
        relax(model, [rattled(0)], fmax=FMAX, max_steps=5, batch_size=2)
    assert "\n" not in str(found.value)


def test_a_device_that_is_not_there_is_one_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    model = network("painn")
    model.save(tmp_path)
    with pytest.raises(UserError, match="torch sees no GPU here; set device to cpu"):
        TrainedModel.load(tmp_path, "cuda")
    with pytest.raises(UserError, match="is no device; choose cpu or cuda"):
        TrainedModel.load(tmp_path, "quantum")
