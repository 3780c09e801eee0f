"""Adapter of CHGNet (chgnet), from scratch or from the weights that its wheel ships.

The network is upstream's own ``CHGNet`` module (Deng et al., Nat. Mach. Intell. 5, 1031 (2023));
``chgnet_graph.py`` makes its graphs and ``chgnet_network.py`` runs its layers.

Energies: CHGNet predicts an energy per atom relative to a composition model (``AtomRef``, one
energy per element). Here energies are totals in eV, and the shipped composition energies become
``reference_energies``. They belong to the level the weights were trained at: PBE(+U) of the
Materials Project with the MP2020 corrections included (Fe -2.256, O -0.687 eV per atom). Energies of
another code or functional need other references, which the trainer fits.

Species labels are rows of upstream's embedding (label - 1, 94 rows). In a pretrained network the
row of a surrogate would be that of another element; it starts as a copy of the row of the element it
stands for, so that labelling changes nothing before training (``surrogate_start: own`` leaves it).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, ClassVar, Self

import torch
from chgnet.model.model import CHGNet
from torch import Tensor

from workflow_lib.core.errors import UserError
from workflow_lib.models import chgnet_network
from workflow_lib.models.chgnet_graph import assemble_chgnet, collate_chgnet
from workflow_lib.models.contract import Batch, Graph, Output, Potential, Species, Structure
from workflow_lib.models.graph import assembled_graph, stress_from, sum_energies
from workflow_lib.models.hyperparameters import ChgnetHyperparameters
from workflow_lib.models.neighbours import Edges

TABLE = 94
"""Rows of CHGNet's embedding: hydrogen to plutonium."""

SHIPPED = {
    "0.3.0": "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
    "0.2.0": "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
    "r2scan": "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
}
"""sha256 of the weights in upstream's wheel, by version. They are pickles: no other file is opened."""

ARCHITECTURE = (
    "atom_fea_dim",
    "bond_fea_dim",
    "angle_fea_dim",
    "num_radial",
    "num_angular",
    "n_conv",
    "atom_graph_cutoff",
    "bond_graph_cutoff",
)
"""Hyperparameters that shipped weights fix."""


class ChgnetPotential(Potential):
    """Crystal Hamiltonian Graph Neural Network: energy, forces, stress and magnetic moments.

    ``magmoms`` are magnitudes, read from the features before the last convolution;
    ``node_embeddings`` are those after it (and after the readout norm), which the energy readout
    sees.
    """

    family: ClassVar[str] = "chgnet"
    predicts: ClassVar[frozenset[str]] = frozenset({"magmoms"})

    def __init__(self, species: Species, dtype: torch.dtype, arguments: Mapping[str, Any]) -> None:
        super().__init__(species, dtype)
        beyond = [label for label in species.labels if label > TABLE]
        if beyond:
            raise UserError(f"chgnet takes species labels up to {TABLE} (Pu), got {beyond[0]}")
        self.reach: float = float(arguments["atom_graph_cutoff"])
        self.bond_cutoff = float(arguments["bond_graph_cutoff"])
        with contextlib.redirect_stdout(io.StringIO()):  # the constructor prints its size
            self.net = CHGNet(**{**arguments, "composition_model": None})
        self.net.to(dtype)

    @classmethod
    def build(
        cls, hyperparameters: ChgnetHyperparameters, species: Species, *, init: str, seed: int
    ) -> Self:
        """See :meth:`Potential.build`.

        From scratch, hidden layers are as wide as the features they make (64 in the shipped
        networks, with 64 features). Pretrained, the architecture is that of the weights; UserError
        for hyperparameters that ask for another.
        """
        hp = hyperparameters
        dtype = getattr(torch, hp.dtype)
        if init == "pretrained":
            arguments, state = _shipped(hp)
        else:
            arguments, state = _arguments(hp), None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed GPUs as well
            potential = cls(species, dtype, arguments)
        if state is not None:
            potential._start_from(state, copy_elements=hp.surrogate_start == "element")
        return potential

    def _start_from(self, state: dict[str, Tensor], *, copy_elements: bool) -> None:
        """Load shipped weights, and composition energies as references."""
        energies = state.pop("composition_model.fc.weight")[0]
        self.net.load_state_dict(state)
        start = {
            label: element if copy_elements else label for label, element in self.species.physical.items()
        }
        self.set_reference_energies({label: float(energies[z - 1]) for label, z in start.items()})
        with torch.no_grad():
            rows = self.net.atom_embedding.embedding.weight
            shipped = rows.clone()
            for label, z in start.items():
                rows[label - 1] = shipped[z - 1]

    def graph(self, structure: Structure) -> Graph:
        """See :meth:`Potential.graph`; also UserError for an atom without neighbours."""
        return assembled_graph(self, structure)

    def assemble(self, atoms: Batch, edges: Edges) -> Batch:
        """See :meth:`Potential.assemble`; also UserError for an atom without neighbours."""
        return assemble_chgnet(
            atoms, edges, atom_cutoff=self.reach, bond_cutoff=self.bond_cutoff, dtype=self.dtype
        )

    def collate(self, graphs: Sequence[Graph]) -> Batch:
        """See :meth:`Potential.collate`."""
        return collate_chgnet(graphs)

    def network(self, batch: Batch, *, stress: bool) -> Output:
        """See :meth:`Potential.network`.

        With g the gradient of the energy by the bond vector r from i to j, the bond adds g to the
        force on i, -g to that on j, and r (x) g to dE/d(strain).
        """
        bonds = chgnet_network.bonds(batch)
        vectors = chgnet_network.bond_vectors(batch)
        with torch.enable_grad():
            vectors.requires_grad_()
            result = chgnet_network.run(self.net, batch, bonds, vectors)
            (gradient,) = torch.autograd.grad(result.energies.sum(), vectors, create_graph=self.training)
            forces = torch.zeros_like(batch["positions"]).index_add(0, bonds[0], gradient)
            output = {
                "energy": sum_energies(result.energies, batch),
                "forces": forces.index_add(0, bonds[1], gradient, alpha=-1),
                "magmoms": result.moments.abs(),
                "node_embeddings": result.features,
            }
            if stress:
                virials = vectors.detach()[:, :, None] * gradient[:, None, :]
                output["stress"] = stress_from(virials, batch["system"][bonds[0]], batch)
        return output

    def embedding_rows(self) -> Tensor:
        """Return the species embedding [n_species, atom_fea_dim], rows as in ``species.labels``."""
        return self.net.atom_embedding.embedding.weight[[label - 1 for label in self.species.labels]]


def _arguments(hp: ChgnetHyperparameters) -> dict[str, Any]:
    """Return arguments of upstream's ``CHGNet`` for a network from scratch; the others are as in 0.3.0."""
    return {
        **{name: getattr(hp, name) for name in ARCHITECTURE},
        "atom_conv_hidden_dim": hp.atom_fea_dim,
        "bond_conv_hidden_dim": hp.bond_fea_dim,
        "mlp_hidden_dims": (hp.atom_fea_dim,) * 3,
    }


def _shipped(hp: ChgnetHyperparameters) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments and state of the weights in the installed chgnet.

    The file must have the checksum in :data:`SHIPPED`, and even so only tensors and plain values
    are read (``weights_only``), so that nothing in it is executed. Raises UserError if it is
    missing or a different one, or if a hyperparameter differs from that of the weights (one left at
    its default counts as not given, because the defaults are those of 0.3.0).
    """
    folder = files("chgnet") / "pretrained" / hp.pretrained
    found = [item for item in folder.iterdir() if item.name.endswith(".pth.tar")] if folder.is_dir() else []
    if len(found) != 1:
        raise UserError(
            f"the installed chgnet ships no weights {hp.pretrained!r}; install the version in "
            "envs/requirements.lock"
        )
    content = found[0].read_bytes()
    if hashlib.sha256(content).hexdigest() != SHIPPED[hp.pretrained]:
        raise UserError(
            f"{found[0]} is not the published chgnet {hp.pretrained} (its sha256 is not the listed one) "
            "and is not opened: a pickle could run code; install chgnet again"
        )
    model = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model"]
    # Upstream's loader adds the bias of the convolutions' output layers only for 0.2.0.
    arguments = {**model["model_args"], "mlp_out_bias": hp.pretrained == "0.2.0"}
    for name in ARCHITECTURE:
        given, default = getattr(hp, name), ChgnetHyperparameters.model_fields[name].default
        if given not in (arguments[name], default):
            raise UserError(
                f"{name}: {given} does not fit the shipped chgnet weights {hp.pretrained}, which have "
                f"{arguments[name]}; leave it out, or train from scratch"
            )
    return arguments, dict(model["state_dict"])
