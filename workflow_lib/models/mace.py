"""Adapter of MACE (mace-torch): the upstream ScaleShiftMACE behind the contract.

The blocks, their weights and the distributions these are drawn from are upstream's. The differences are
around them:

* weights are drawn so that one seed gives a species the same ones whichever other species there are;
* isolated-species energies live in the base class, the upstream ones are zero;
* the gradient is taken with respect to the edge vectors r_ij, which a graph holds ready. Forces
  and virial follow from dE/dr_ij (F_i = sum_j dE/dr_ij - dE/dr_ji, W = sum_ij r_ij (x) dE/dr_ij,
  Thompson, Plimpton & Mattson, J. Chem. Phys. 131, 154107 (2009)), so that the stress costs nothing
  and inputs stay untouched;
* the constants taken from data (mean number of neighbours, energy scale) are tensors saved with
  the weights, set by :meth:`MacePotential.set_statistics`.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from workflow_lib.core.errors import UserError
from workflow_lib.models.contract import MAX_SPECIES, Batch, Graph, Output, Potential, Species, Structure
from workflow_lib.models.graph import assembled_graph, collate_graphs, stress_from, sum_energies
from workflow_lib.models.hyperparameters import MaceHyperparameters
from workflow_lib.models.mace_ops import PairConvolution, half_list, interact
from workflow_lib.models.neighbours import Edges

_UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@contextlib.contextmanager
def _quiet_import() -> Iterator[None]:
    """Import upstream without its side effects.

    mace sets a variable that makes every later ``torch.load`` of the process unpickle foreign code,
    and prints a line about an optional accelerator library. The variable is meant for the table of
    constants that e3nn loads while it is imported; allowing ``slice`` is enough for that.
    """
    before = os.environ.get(_UNSAFE)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            torch.serialization.safe_globals([slice]),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            os.environ.pop(_UNSAFE, None)
        else:
            os.environ[_UNSAFE] = before


with _quiet_import():
    from e3nn import o3
    from mace import modules


@contextlib.contextmanager
def building(dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Set seeded random numbers and the default dtype for one construction; restore both afterwards."""
    default = torch.get_default_dtype()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript remarks on e3nn's annotations
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
            torch.set_default_dtype(dtype)
            yield
    finally:
        torch.set_default_dtype(default)


def scale_shift_mace(
    hp: MaceHyperparameters,
    numbers: Sequence[int],
    *,
    energies: Sequence[float] | None = None,
    neighbours: float = 1.0,
    scale: float = 1.0,
    shift: float = 0.0,
) -> Any:
    """Return upstream's ScaleShiftMACE with the current random numbers, in the current default dtype.

    ``numbers``: atomic numbers of the species, with their ``energies`` (eV, zero if left out);
    ``neighbours``: their mean number; ``scale`` and ``shift``: eV.
    """
    irreps = "+".join(f"{hp.num_channels}x{degree}{'eo'[degree % 2]}" for degree in range(hp.max_L + 1))
    return modules.ScaleShiftMACE(
        r_max=hp.r_max,
        num_bessel=hp.num_radial_basis,
        num_polynomial_cutoff=hp.num_cutoff_basis,
        max_ell=hp.max_ell,
        interaction_cls=modules.interaction_classes[hp.interaction],
        interaction_cls_first=modules.interaction_classes[hp.interaction_first],
        num_interactions=hp.num_interactions,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps(irreps),
        MLP_irreps=o3.Irreps(hp.mlp_irreps),
        atomic_energies=np.zeros(len(numbers)) if energies is None else np.array(energies),
        avg_num_neighbors=neighbours,
        atomic_numbers=list(numbers),
        correlation=hp.correlation,
        gate=torch.nn.functional.silu,
        pair_repulsion=hp.pair_repulsion,
        distance_transform=hp.distance_transform,
        radial_MLP=list(hp.radial_mlp),
        use_reduced_cg=False,  # default of mace_run_train
        atomic_inter_scale=scale,
        atomic_inter_shift=shift,
    )


_BY_SPECIES = ("node_embedding", "skip_tp", "symmetric_contractions")
"""Modules of upstream whose weights have a part for each species."""


def draw_weights(model: Any, labels: Sequence[int]) -> None:
    """Draw the weights of an upstream network anew, with the current random numbers.

    As upstream does, which draws standard normal numbers, in contractions over their number of paths.
    Upstream's sequence of numbers depends on how many species there are; here a weight of a species
    comes from a table for all labels, so that networks of one seed differ in nothing but their species.
    """
    parts = [(view, 0, 1.0) for view in model.node_embedding.linear.weight_views()]
    parts += [(view, 1, 1.0) for block in model.interactions for view in block.skip_tp.weight_views()]
    for product in model.products:
        for contraction in product.symmetric_contractions.contractions:
            paths = (contraction.weights_max, *contraction.weights)
            parts += [(weight, 0, 1 / weight.shape[1]) for weight in paths]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not any(module in name for module in _BY_SPECIES):
                parameter.normal_()
        for view, axis, deviation in parts:
            size = [*view.shape[:axis], MAX_SPECIES, *view.shape[axis + 1 :]]
            view.copy_(deviation * torch.randn(size).index_select(axis, torch.tensor(labels)))


class MacePotential(Potential):
    """A ScaleShiftMACE (Batatia et al., NeurIPS 2022)."""

    family: ClassVar[str] = "mace"
    model: Any

    def __init__(self, species: Species, dtype: torch.dtype, model: Any, cutoff: float) -> None:
        super().__init__(species, dtype)
        self.model = model
        self.cutoff = self.reach = cutoff
        index = torch.full((max(species.labels) + 1,), -1, dtype=torch.int64)
        index[list(species.labels)] = torch.arange(len(species.labels))
        self.register_buffer("_index", index, persistent=False)  # label -> place among the labels
        self._index: torch.Tensor
        self.convolutions = torch.nn.ModuleList(
            PairConvolution(interaction.conv_tp) for interaction in self.model.interactions
        )
        for interaction in self.model.interactions:
            del interaction.conv_tp
            # Upstream keeps this as a Python number; as a buffer it is saved with the weights.
            del interaction.avg_num_neighbors
            interaction.register_buffer("avg_num_neighbors", torch.tensor(1.0, dtype=dtype))

    @classmethod
    def build(cls, hyperparameters: MaceHyperparameters, species: Species, *, init: str, seed: int) -> Self:
        """See :meth:`Potential.build`; mace-torch ships no weights, so ``init`` must be scratch."""
        if init != "scratch":
            raise UserError(f"mace ships no weights: init is {init!r}, it must be 'scratch'")
        hp = hyperparameters
        dtype = getattr(torch, hp.dtype)
        if hp.surrogate_z == "physical":
            numbers = [species.physical[label] for label in species.labels]
        else:
            numbers = list(species.labels)
        with building(dtype, seed):
            model = scale_shift_mace(hp, numbers)
            torch.default_generator.manual_seed(seed)  # upstream has drawn as its species want
            draw_weights(model, species.labels)
        return cls(species, dtype, model, hp.r_max)

    def set_statistics(self, graphs: Sequence[Graph], forces_rms: float | None = None) -> None:
        """Take the mean number of neighbours and, if given, the energy scale from training data.

        ``forces_rms`` is the root mean square of the force components in eV/A (upstream's
        ``rms_forces_scaling``); the scale stays 1 eV without it.
        """
        sizes = [(len(graph["species"]), graph["edge_index"].shape[1]) for graph in graphs]
        atoms, pairs = (sum(column) for column in zip(*sizes, strict=True))
        if not pairs:
            raise UserError(
                f"no atoms lie within r_max = {self.cutoff} A of each other in the training "
                "frames; raise r_max or check the units of the cells"
            )
        for interaction in self.model.interactions:
            interaction.avg_num_neighbors.fill_(2 * pairs / atoms)
        if forces_rms is not None and forces_rms > 0:
            self.model.scale_shift.scale.fill_(forces_rms)

    def graph(self, structure: Structure) -> Graph:
        """Return the base graph, pairs [2, n_pairs], their vectors (A) and one-hot species.

        A pair stands for both directions; ``edge_vector`` points from its first atom to its second.
        """
        return assembled_graph(self, structure)

    def assemble(self, atoms: Batch, edges: Edges) -> Batch:
        """See :meth:`Potential.assemble`."""
        half = half_list(edges.atoms, edges.shift)
        species = self._index.to(atoms["species"].device)[atoms["species"]]
        one_hot = torch.nn.functional.one_hot(species, len(self.species.labels))
        return {
            **atoms,
            "positions": atoms["positions"].to(self.dtype),
            "cell": atoms["cell"].to(self.dtype),
            "edge_index": edges.atoms[:, half],
            "edge_vector": edges.vector[half].to(self.dtype),
            "node_attrs": one_hot.to(self.dtype),
        }

    def collate(self, graphs: Sequence[Graph]) -> Batch:
        """See :meth:`Potential.collate`."""
        return collate_graphs(graphs)

    def network(self, batch: Batch, *, stress: bool) -> Output:
        """See :meth:`Potential.network`."""
        first, second = batch["edge_index"]
        # TorchScript rewrites its code after some calls, in the last digits of the result as well; a
        # resumed run must not differ from an uninterrupted one.
        with torch.enable_grad(), torch.jit.optimized_execution(False):
            vectors = batch["edge_vector"].detach().requires_grad_(True)
            node_energy, embeddings = self._node_energies(batch, vectors)
            (gradient,) = torch.autograd.grad(node_energy.sum(), vectors, create_graph=self.training)
        forces = vectors.new_zeros((len(node_energy), 3))
        output = {
            "energy": sum_energies(node_energy, batch),
            "forces": forces.index_add(0, first, gradient).index_add(0, second, -gradient),
            "node_embeddings": embeddings,
        }
        if stress:
            virials = vectors.detach()[:, :, None] * gradient[:, None, :]
            output["stress"] = stress_from(virials, batch["system"][first], batch)
        return output

    def _node_energies(self, batch: Batch, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return energies [n] in eV and scalar features [n, d]: ScaleShiftMACE.forward, over pairs."""
        model, node_attrs, pairs = self.model, batch["node_attrs"], batch["edge_index"]
        lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
        features = model.node_embedding(node_attrs)
        angular = model.spherical_harmonics(vectors)
        radial, _ = model.radial_embedding(lengths, node_attrs, pairs, model.atomic_numbers)
        energy = vectors.new_zeros(len(node_attrs))
        if hasattr(model, "pair_repulsion"):
            for ends in (pairs, pairs.flip(0)):  # each call gives the second atom its half
                energy = energy + model.pair_repulsion_fn(lengths, node_attrs, ends, model.atomic_numbers)
        scalars: list[torch.Tensor] = []
        layers = zip(model.interactions, self.convolutions, model.products, model.readouts, strict=True)
        for block, convolution, product, readout in layers:
            message, skip = interact(block, convolution, node_attrs, features, angular, radial, pairs)
            features = product(node_feats=message, sc=skip, node_attrs=node_attrs)
            energy = energy + readout(features, None).squeeze(-1)
            # Scalars come first in every layer and are all that a scalar readout uses.
            scalars.append(features[:, : self._n_channels])
        scale_shift = model.scale_shift
        return scale_shift.scale * energy + scale_shift.shift, torch.cat(scalars, dim=1)

    @property
    def _n_channels(self) -> int:
        return self.model.node_embedding.linear.irreps_out.num_irreps

    def embedding_rows(self) -> torch.Tensor:
        """Return the species embedding [n_species, num_channels], rows as in ``species.labels``."""
        return self.model.node_embedding.linear.weight.view(len(self.species.labels), -1)
