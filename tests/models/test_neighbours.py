"""The kept neighbour list: every edge within reach and no other, whatever moved since it was made."""

import numpy as np
import pytest
import torch

from workflow_lib.core.errors import UserError
from workflow_lib.models.neighbours import NeighbourList, ordered, search_cpu, search_device
from workflow_lib.models.testing import olivine

REACH = 4.0


def tensors(*atoms):
    """Positions, cells and systems of structures, as the torch-sim model has them."""
    positions = torch.cat([torch.tensor(item.positions) for item in atoms])
    cell = torch.stack([torch.tensor(item.cell[:]) for item in atoms])
    system = torch.repeat_interleave(torch.arange(len(atoms)), torch.tensor([len(i) for i in atoms]))
    return positions, cell, system


def same(one, other):
    return all(
        torch.equal(getattr(one, n), getattr(other, n)) for n in ("atoms", "shift", "vector", "length")
    )


def test_both_searches_find_the_same_pairs():
    """Cells smaller than the reach too, atoms outside of their cell, several systems."""
    small = olivine()[:6]
    small.set_cell(small.cell[:] * 0.45)
    small.positions += small.cell[:].sum(axis=0)
    where = tensors(olivine(filled=2), small, olivine())
    first, second = (ordered(find(*where, 4.5), len(where[0])) for find in (search_cpu, search_device))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert (where[2][first[0][0]] == where[2][first[0][1]]).all()


@pytest.mark.parametrize("strain", [0.0, 2e-3])
def test_kept_edges_are_those_of_a_new_list(strain):
    """Over a random walk of 60 steps, in fixed cells and in cells that strain: bit for bit."""
    rng = np.random.default_rng(0)
    atoms = [olivine(filled=2), olivine()]
    kept, new = NeighbourList(REACH, 0.5), NeighbourList(REACH, 0.0)
    for _ in range(60):
        for item in atoms:
            item.positions += rng.normal(0, 0.01, (len(item), 3))
            deformed = item.cell[:] @ (np.eye(3) + rng.normal(0, strain, (3, 3)))
            item.set_cell(deformed, scale_atoms=True)
        one, other = kept.edges(*tensors(*atoms)), new.edges(*tensors(*atoms))
        assert same(one, other)
        assert float(one.length.max()) < REACH
    assert new.built == 60 and 1 < kept.built < 30


def test_one_atom_that_moved_far_is_noticed():
    atoms = olivine()
    kept = NeighbourList(REACH, 0.5)
    kept.edges(*tensors(atoms))
    atoms.positions[3] += [0.24, 0, 0]
    kept.edges(*tensors(atoms))
    assert kept.built == 1
    atoms.positions[3] += [0.02, 0, 0]
    moved = kept.edges(*tensors(atoms))
    assert kept.built == 2 and same(moved, NeighbourList(REACH, 0.0).edges(*tensors(atoms)))


def test_another_batch_is_another_list():
    kept = NeighbourList(REACH, 0.5)
    kept.edges(*tensors(olivine(), olivine(filled=2)))
    swapped = kept.edges(*tensors(olivine(filled=2), olivine()))
    assert kept.built == 2 and same(
        swapped, NeighbourList(REACH, 0).edges(*tensors(olivine(filled=2), olivine()))
    )


def test_shortest_edge_of_every_system():
    lone = olivine()[:1]
    lone.set_cell(np.eye(3) * 30)
    positions, cell, system = tensors(olivine(), lone)
    shortest = NeighbourList(REACH).edges(positions, cell, system).shortest(system, 2)
    distances = olivine().get_all_distances(mic=True)
    assert float(shortest[0]) == pytest.approx(distances[distances > 0].min(), abs=1e-9)
    assert float(shortest[1]) == np.inf


@pytest.mark.parametrize("broken", ["positions", "cell"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_no_neighbours(broken: str, value: float):
    positions, cell, system = tensors(olivine())
    (positions if broken == "positions" else cell[0])[1, 2] = value
    with pytest.raises(UserError, match=f"{broken} of a structure not finite"):
        NeighbourList(REACH).edges(positions, cell, system)
