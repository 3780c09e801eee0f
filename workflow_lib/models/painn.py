"""PaiNN (schnetpack) behind the contract.

Weights and layers are upstream's own modules (``schnetpack.representation.PaiNN`` and an
``Atomwise`` energy head), so that they can be moved to and from ``NeuralNetworkPotential``. What
runs them differs in how, not in what, they compute:

* messages are summed by ``neighbour_messages.py`` instead of edge by edge;
* in the first block neighbours differ by nothing but their species, so their basis values are
  summed by species before the filters, and messages from vectors, which are zero, are left out; as
  is the vector update of the last block, which nobody reads;
* geometry enters through radial basis values and unit vectors. One gradient with respect to these
  gives forces and virial: with g_ij = dE/dr_ij along the edge i -> j, F_i = sum_j g_ij - g_ji and
  dE/d(strain) = sum_ij g_ij (x) r_ij, made symmetric (Thompson, Plimpton & Mattson, J. Chem. Phys.
  131, 154107 (2009)). The stress so costs next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Self

import schnetpack as spk
import torch
from torch import Tensor

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import Batch, Graph, Output, Potential, Species, Structure
from workflow_lib.models.graph import assembled_graph, collate_graphs, stress_from, sum_energies
from workflow_lib.models.hyperparameters import PainnHyperparameters
from workflow_lib.models.neighbour_messages import BackwardPass, directed_message, last_axis, radial_message
from workflow_lib.models.neighbours import Edges
from workflow_lib.models.second_order import silu

TABLE = 100
"""Rows of schnetpack's embedding; a label is its row."""


class PainnPotential(Potential):
    """PaiNN (Schütt, Unke & Gastegger, ICML 2021)."""

    family: ClassVar[str] = "painn"

    def __init__(self, hyperparameters: PainnHyperparameters, species: Species) -> None:
        hp = hyperparameters
        super().__init__(species, getattr(torch, hp.dtype))
        beyond = [label for label in species.labels if label >= TABLE]
        if beyond:
            raise UserError(f"{self.family} takes species labels below {TABLE}, got {beyond[0]}")
        if hp.radial_basis == "gaussian" and hp.n_rbf < 2:
            raise UserError("a gaussian radial basis needs n_rbf of 2 or more: its width is a spacing")
        basis = spk.nn.BesselRBF if hp.radial_basis == "bessel" else spk.nn.GaussianRBF
        self.cutoff = self.reach = hp.cutoff
        row = torch.full((TABLE,), -1, dtype=torch.int64)
        row[list(species.labels)] = torch.arange(len(species.labels))
        self.register_buffer("_row", row, persistent=False)  # label -> place among the labels
        self._row: Tensor
        self.representation = spk.representation.PaiNN(
            n_atom_basis=hp.n_atom_basis,
            n_interactions=hp.n_interactions,
            radial_basis=basis(n_rbf=hp.n_rbf, cutoff=hp.cutoff),
            cutoff_fn=spk.nn.CosineCutoff(hp.cutoff),
            activation=silu,
        )
        self.readout = spk.atomistic.Atomwise(n_in=hp.n_atom_basis, activation=silu, output_key="energy")

    @classmethod
    def build(
        cls, hyperparameters: PainnHyperparameters, species: Species, *, init: str, seed: int
    ) -> Self:
        """See :meth:`Potential.build`; schnetpack ships no weights, so ``init`` must be scratch."""
        if init != "scratch":
            raise UserError(f"{cls.family} ships no weights: init is {init!r}, it must be 'scratch'")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
            potential = cls(hyperparameters, species)
        for child in potential.children():  # not the potential: reference energies stay double
            child.to(potential.dtype)
        return potential

    def graph(self, structure: Structure) -> Graph:
        """Return the base graph, ``neighbours`` [n, k] and ``vectors`` [n, k, 3] (A) to them.

        k is the largest number of neighbours; an atom with fewer has itself as neighbour in the
        rest, at twice the cut-off, where filters are zero.
        """
        return assembled_graph(self, structure)

    def assemble(self, atoms: Batch, edges: Edges) -> Batch:
        """See :meth:`Potential.assemble`."""
        order = torch.argsort(edges.atoms[0], stable=True)
        first, second = edges.atoms[:, order]
        n_atoms, device = len(atoms["species"]), first.device
        counts = torch.bincount(first, minlength=n_atoms)
        slot = torch.arange(len(first), device=device) - (counts.cumsum(0) - counts)[first]
        neighbours, table = self._padding(torch.arange(n_atoms, device=device), int(counts.max()))
        neighbours[first, slot] = second
        table[first, slot] = edges.vector[order].to(self.dtype)
        return {
            **atoms,
            "positions": atoms["positions"].to(self.dtype),
            "cell": atoms["cell"].to(self.dtype),
            "neighbours": neighbours,
            "vectors": table,
        }

    def _padding(self, atoms: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return ``k`` columns of neighbours and vectors that contribute nothing."""
        far = torch.tensor([2 * self.cutoff, 0.0, 0.0], dtype=self.dtype, device=atoms.device)
        return atoms[:, None].repeat(1, k), far.repeat(len(atoms), k, 1)

    def collate(self, graphs: Sequence[Graph]) -> Batch:
        """See :meth:`Potential.collate`; tables are padded to the widest."""
        widest = max(graph["neighbours"].shape[1] for graph in graphs)
        return collate_graphs(
            [self._widen(graph, widest) for graph in graphs], {"neighbours": "positions"}, {}
        )

    def _widen(self, graph: Graph, k: int) -> Graph:
        missing = k - graph["neighbours"].shape[1]
        if not missing:
            return graph
        neighbours, vectors = self._padding(torch.arange(len(graph["positions"])), missing)
        return {
            **graph,
            "neighbours": torch.cat([graph["neighbours"], neighbours], dim=1),
            "vectors": torch.cat([graph["vectors"], vectors], dim=1),
        }

    def network(self, batch: Batch, *, stress: bool) -> Output:
        """See :meth:`Potential.network`."""
        vectors, neighbours = batch["vectors"], batch["neighbours"]
        with torch.no_grad():
            distance = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
            unit = vectors / distance
            basis, slope = self._basis(distance)
        with torch.enable_grad():
            basis.requires_grad_()
            unit.requires_grad_()
            backward = BackwardPass()
            scalars = self._interactions(self._row[batch["species"]], neighbours, basis, unit, backward)
            output = self._heads(scalars)
            atomic = self.readout.outnet(scalars[-1]).squeeze(-1)
            backward.geometry = True
            by_basis, by_unit = torch.autograd.grad(atomic.sum(), (basis, unit), create_graph=self.training)
            backward.geometry = False
            unit = unit.detach()
            radial = (by_basis * slope).sum(-1, keepdim=True)
            across = by_unit - (by_unit * unit).sum(-1, keepdim=True) * unit
            gradient = radial * unit + across / distance
            output["energy"] = sum_energies(atomic, batch)
            output["forces"] = gradient.sum(1).index_add(
                0, neighbours.flatten(), gradient.flatten(0, 1), alpha=-1
            )
            if stress:
                output["stress"] = stress_from(torch.bmm(gradient.mT, vectors), batch["system"], batch)
            output["node_embeddings"] = scalars[-1]
        return output

    def _basis(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Return radial basis times cut-off, the cut-off itself last, and the slopes of all by distance.

        ``distance`` [n, k, 1] in A; returns twice [n, k, n_rbf + 1]. The last column carries the
        bias of the filters.
        """
        net = self.representation
        radial, cutoff = net.radial_basis(distance.squeeze(-1)), net.cutoff_fn(distance)
        if isinstance(net.radial_basis, spk.nn.BesselRBF):  # sin(f d) / d
            frequency = net.radial_basis.freqs
            radial_slope = (frequency * torch.cos(frequency * distance) - radial) / distance
        else:  # exp(-(d - offset)^2 / (2 width^2))
            rbf = net.radial_basis
            radial_slope = (rbf.offsets - distance) / rbf.widths**2 * radial
        k = math.pi / self.cutoff  # cut-off (1 + cos(k d)) / 2
        cutoff_slope = torch.where(distance < self.cutoff, -0.5 * k * torch.sin(k * distance), 0.0)
        values = torch.cat([radial * cutoff, cutoff], dim=-1)
        return values, torch.cat([radial_slope * cutoff + radial * cutoff_slope, cutoff_slope], dim=-1)

    def _interactions(
        self, rows: Tensor, neighbours: Tensor, basis: Tensor, unit: Tensor, backward: BackwardPass
    ) -> list[Tensor]:
        """Return the scalar features [n, f] that leave each interaction, after message and update.

        ``rows`` [n]: place of each atom's label among the labels; ``basis`` as from ``_basis``,
        ``unit`` [n, k, 3] along the edges.
        """
        net = self.representation
        f, last = net.n_atom_basis, net.n_interactions - 1
        filters = torch.cat([net.filter_net.weight, net.filter_net.bias[:, None]], dim=1).T.split(f, dim=1)
        scalars: list[Tensor] = []
        for layer, (message, update) in enumerate(zip(net.interactions, net.mixing, strict=True)):
            w_q, w_r, w_mu = (w.contiguous() for w in filters[3 * layer : 3 * layer + 3])
            if layer == 0:
                alphabet = self.embedding_rows()
                x_q, x_r, _ = message.interatomic_context_net(alphabet).split(f, dim=1)
                sums = self._sums_by_species(rows, neighbours, basis, unit)
                q = alphabet[rows] + (last_axis(sums[:, 0], w_q) * x_q).sum(1)
                mu = (last_axis(sums[:, 1:], w_r) * x_r).sum(2)
            else:
                x_q, x_r, x_mu = message.interatomic_context_net(q).split(f, dim=1)
                q = q + radial_message(basis, w_q, x_q[:, None], neighbours, backward)[:, 0]
                carried = radial_message(basis, w_mu, x_mu[:, None] * mu, neighbours, backward)
                mu = mu + carried + directed_message(basis, w_r, unit, x_r, neighbours, backward)
            mu_v, mu_w = last_axis(mu, update.mu_channel_mix.weight.T).split(f, dim=-1)
            norm = torch.sqrt((mu_v * mu_v).sum(1) + update.epsilon)
            dq, d_mu, dq_mu = update.intraatomic_context_net(torch.cat([q, norm], dim=-1)).split(f, dim=1)
            q = q + dq + dq_mu * (mu_v * mu_w).sum(1)
            if layer < last:
                mu = mu + d_mu[:, None] * mu_w
            scalars.append(q)
        return scalars

    def _sums_by_species(self, rows: Tensor, neighbours: Tensor, basis: Tensor, unit: Tensor) -> Tensor:
        """Return the sums of ``basis`` and ``unit * basis`` over neighbours of each species.

        The result is [n, 4, n_species, n_basis]; of the 4, the first are the plain sums.
        """
        n_species = len(self.species.labels)
        kind = torch.nn.functional.one_hot(rows, n_species).to(basis.dtype)[neighbours]
        direction = torch.cat([torch.ones_like(unit[..., :1]), unit], dim=-1)
        columns = (direction[..., None] * kind[:, :, None]).flatten(2)
        return torch.bmm(columns.mT, basis).unflatten(1, (4, n_species))

    def _heads(self, scalars: list[Tensor]) -> Output:
        """Return outputs per atom besides forces; none here."""
        return {}

    def embedding_rows(self) -> Tensor:
        """Return the species embedding [n_species, n_atom_basis], rows as in ``species.labels``."""
        return self.representation.embedding.weight[list(self.species.labels)]
