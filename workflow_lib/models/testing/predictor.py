"""What every predictor must do, as a function that anyone can call for one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ase import Atoms

from workflow_lib.models.contract import Structure
from workflow_lib.models.predictor import Predictor

# Sums in another order in another batch, in double precision; a single-precision potential that
# passes on 28 atoms needs a tolerance of its own.
SAME = 1e-9


def check_predictor(predictor: Predictor, atoms: Sequence[Atoms], tolerance: float = SAME) -> None:
    """Raise AssertionError where a predictor breaks a promise of the protocol.

    ``atoms``: at least two different periodic structures that it can evaluate, with charge states if it
    needs them; ``tolerance``: eV and eV/A.
    """
    assert len(atoms) > 1, "one structure cannot tell a batch from a single"
    identity = predictor.identity
    assert predictor.name and identity
    assert predictor.level is None or predictor.level
    assert predictor.predicts <= {"magmoms", "charges"}
    before = [(item.positions.copy(), item.numbers.copy()) for item in atoms]
    together = predictor.predict(atoms)
    assert len(together) == len(atoms)
    for item, found, (positions, numbers) in zip(atoms, together, before, strict=True):
        assert np.array_equal(item.positions, positions) and np.array_equal(item.numbers, numbers)
        assert np.isfinite(found.energy) and found.forces.shape == (len(item), 3)
        assert len(found.embeddings) == len(item)
        assert found.stress is None, "nobody asked for a stress"
        assert (found.oxidation_states is not None) == predictor.charge_labelled
        for name in ("magmoms", "charges"):
            values = getattr(found, name)
            assert (values is not None) == (name in predictor.predicts), name
            assert values is None or values.shape == (len(item),), name
        if found.magmoms is not None:
            assert (found.magmoms >= 0).all(), "moments are magnitudes"
        [alone] = predictor.predict([item])
        assert abs(alone.energy - found.energy) <= tolerance
        assert np.abs(alone.forces - found.forces).max() <= tolerance
    structures = [_structure(predictor, item) for item in atoms]
    output = predictor.evaluate(structures)
    total = sum(map(len, atoms))
    assert output["energy"].shape == (len(atoms),) and output["forces"].shape == (total, 3)
    assert len(output["node_embeddings"]) == total
    expected = torch.tensor([item.energy for item in together], dtype=torch.float64)
    assert (output["energy"].cpu() - expected).abs().max() <= tolerance
    assert predictor.identity == identity, "answers change nothing"


def _structure(predictor: Predictor, atoms: Atoms) -> Structure:
    species = predictor.species(atoms.numbers, predictor.choose(atoms))
    return Structure(species, atoms.numbers, atoms.positions, np.array(atoms.cell))
