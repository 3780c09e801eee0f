"""Potentials for tests of dynamics: independent harmonic wells, and an ideal gas."""

from collections.abc import Sequence

import torch
from ase import Atoms

from workflow_lib.models.contract import Output, Structure
from workflow_lib.models.predictor import Origin, Predictor


class Einstein(Predictor):
    """A predictor: 1/2 k |r - r0|^2 for each atom, k in eV/A^2 by atomic number, r0 of the given cell.

    With k = 0 it is an ideal gas.
    """

    charge_labelled, gives_stress = False, True
    level, elements, predicts = None, None, frozenset()
    device = torch.device("cpu")
    name, identity = "einstein", ""
    origin = Origin("einstein", "einstein", "scratch", None, None, None)

    def __init__(self, anchors: Atoms, stiffness: dict[int, float]) -> None:
        self.anchors = torch.as_tensor(anchors.positions)
        k = [stiffness[int(z)] for z in anchors.numbers]
        self.stiffness = torch.tensor(k, dtype=torch.float64)[:, None]
        self.identity = f"einstein {k}"

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        moved = torch.stack([torch.as_tensor(item.positions) - self.anchors for item in structures])
        forces = -self.stiffness * moved
        output = {
            "energy": 0.5 * (self.stiffness * moved**2).sum(dim=(1, 2)),
            "forces": forces.reshape(-1, 3),
            "node_embeddings": torch.zeros((moved.shape[0] * moved.shape[1], 0)),
        }
        if stress:
            output["stress"] = torch.zeros((len(structures), 3, 3), dtype=torch.float64)
        return output
