"""What a stage requires of any potential, whether it was trained here or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from ase import Atoms

from workflow_lib.models.contract import Output, Structure

Assign = Literal["labels", "search"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The results of a model for one structure of n atoms.

    ``energy`` eV; ``forces`` [n, 3] eV/A; ``stress`` [3, 3] eV/A^3 (tension positive) if asked for;
    ``magmoms`` [n] muB (magnitudes) and ``charges`` [n] e if the family predicts them;
    ``embeddings`` [n, d] the input of the energy readout (d = 0 where it is not known);
    ``oxidation_states`` [n] the labels the model was given or chose, None for a charge-blind model.
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    magmoms: np.ndarray | None
    charges: np.ndarray | None
    embeddings: np.ndarray
    oxidation_states: np.ndarray | None


class Predictor(Protocol):
    """A potential to use: a trained model, shipped weights, or a calculator of ASE.

    The ASE calculator, the torch-sim model and the relaxations are written for this interface.
    """

    @property
    def name(self) -> str:
        """Its name in messages and tables."""

    @property
    def identity(self) -> str:
        """Hash of everything that decides its results, its code included."""

    @property
    def level(self) -> str | None:
        """Level of theory of its energies; None if unknown.

        Energies of two levels are never compared; differences within one potential always may be.
        """

    @property
    def charge_labelled(self) -> bool:
        """Whether it distinguishes the charge states of a redox element, and therefore needs them."""

    @property
    def predicts(self) -> frozenset[str]:
        """Per-atom labels besides forces: a subset of {"magmoms", "charges"}."""

    @property
    def elements(self) -> frozenset[int] | None:
        """Atomic numbers of the elements it knows; None if unknown."""

    @property
    def device(self) -> torch.device:
        """Device that it runs on."""

    def choose(self, atoms: Atoms, assign: Assign = "labels") -> np.ndarray | None:
        """Return the charge states to use for a structure; None for a charge-blind potential."""

    def species(self, numbers: np.ndarray, states: np.ndarray | None) -> np.ndarray:
        """Return the labels [n] that stand for elements [n] in given charge states [n]."""

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """Run one batch: ``energy``, ``forces``, ``node_embeddings`` and, if asked for, ``stress``.

        Shapes and units are those of the potentials' contract. Raises UserError if there is no
        stress.
        """

    def predict(
        self,
        atoms: Sequence[Atoms],
        *,
        stress: bool = False,
        batch_size: int = 16,
        assign: Assign = "labels",
    ) -> list[Prediction]:
        """Evaluate structures; a UserError names the structure by its place in the list."""
