"""What a stage requires of any potential, whether it was trained here or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from ase import Atoms

from workflow_lib.core.errors import UserError
from workflow_lib.frames.pymatgen_structure import as_atoms
from workflow_lib.lattice.structure_file import require_ordered
from workflow_lib.models.contract import Batch, Output, Structure
from workflow_lib.models.identity import OUTSIDE

if TYPE_CHECKING:
    from pymatgen.core import Structure as PymatgenStructure

    from workflow_lib.models.neighbours import Edges

Assign = Literal["labels", "search"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """The results of a model for one structure of n atoms.

    ``energy`` eV; ``forces`` [n, 3] eV/A; ``stress`` [3, 3] eV/A^3 (tension positive) if asked for;
    ``magmoms`` [n] muB (magnitudes) and ``charges`` [n] e if the potential predicts them;
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


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a potential comes from, as tables show it; ``fold`` and ``seed`` are None if not trained here.

    ``model``: its name in the configuration; ``status``: ok, or how its training failed.
    """

    model: str
    family: str
    init: str
    variant: str | None
    fold: int | None
    seed: int | None
    redox_embedding: str = "none"
    status: str = "ok"

    def require_trained(self) -> None:
        """Raise UserError if the training of this potential diverged: its numbers mean nothing."""
        if self.status != "ok":
            raise UserError(
                f"the training of {self.model} ended as {self.status}, so what it predicts means nothing; "
                "train it with a lower learning rate, or take another potential"
            )

    def columns(self, identity: str) -> dict[str, Any]:
        """Return the columns that begin every table of its rows; ``identity`` is its id."""
        own: dict[str, Any] = {
            "id": identity,
            "model": self.model,
            "family": self.family,
            "variant": self.variant,
        }
        return own | {"fold": self.fold, "seed": self.seed}

    @property
    def outside(self) -> bool:
        """Whether it was trained elsewhere: on other frames, and as a rule at another level of theory."""
        return self.variant == OUTSIDE.name


class Predictor(ABC):
    """A potential to use: a trained model, shipped weights, or a calculator of ASE.

    Stages, relaxations, the ASE calculator and the torch-sim model are written for this interface. A
    subclass says what the potential is and evaluates a batch; this class makes and splits the batches.
    """

    batched: ClassVar[bool] = True
    """Whether one call of :meth:`evaluate` should hold several structures."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Its name in messages."""

    @property
    @abstractmethod
    def origin(self) -> Origin:
        """Where it comes from, for tables."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Hash of everything that decides its results, its code included."""

    @property
    @abstractmethod
    def level(self) -> str | None:
        """Level of theory of its energies; None if unknown.

        Energies of two levels are never compared; differences within one potential always may be.
        """

    @property
    @abstractmethod
    def charge_labelled(self) -> bool:
        """Whether it distinguishes the charge states of a redox element, and therefore needs them."""

    @property
    @abstractmethod
    def predicts(self) -> frozenset[str]:
        """Per-atom labels besides forces: a subset of {"magmoms", "charges"}."""

    @property
    @abstractmethod
    def gives_stress(self) -> bool:
        """Whether it has a stress that may be believed; without one, cells are not relaxed."""

    @property
    @abstractmethod
    def elements(self) -> frozenset[int] | None:
        """Atomic numbers of the elements it knows; None if unknown."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device that it runs on."""

    @abstractmethod
    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """Run one batch: ``energy``, ``forces``, ``node_embeddings`` and, if asked for, ``stress``.

        Shapes and units are those of the potentials' contract, and so are ``magmoms`` and ``charges``
        if they are predicted. Raises UserError if there is no stress.
        """

    @property
    def reach(self) -> float | None:
        """Length (A) of the longest edge that :meth:`evaluate_edges` wants; None if it takes structures."""
        return None

    def evaluate_edges(self, atoms: Batch, edges: Edges, *, stress: bool = False) -> Output:
        """Run one batch of atoms and edges that are on the device, as :meth:`evaluate` does structures.

        ``atoms`` and ``edges`` as in ``Potential.assemble``.
        """
        raise NotImplementedError(f"{self.name} takes structures")

    def species(self, numbers: np.ndarray, states: np.ndarray | None) -> np.ndarray:
        """Return the labels [n] that stand for elements [n] in given charge states [n]."""
        return np.array(numbers, dtype=np.int64)

    def candidates(self, atoms: Atoms, assign: Assign = "labels") -> list[np.ndarray | None]:
        """Return the charge states to evaluate a structure under; [None] for a charge-blind potential."""
        return [None]

    def choose(self, atoms: Atoms, assign: Assign = "labels") -> np.ndarray | None:
        """Return the charge states to use for ``atoms``: the given ones, or those of lowest energy.

        None for a charge-blind potential; raises UserError as :meth:`candidates` does.
        """
        candidates = self.candidates(atoms, assign)
        if len(candidates) == 1:
            return candidates[0]
        [prediction] = self.predict([atoms], assign=assign)
        return prediction.oxidation_states

    def structure(self, atoms: Atoms, assign: Assign = "labels") -> Structure:
        """Return the network's input for ``atoms`` under the charge states of :meth:`choose`."""
        return self.labelled_structure(atoms, self.choose(atoms, assign))

    def labelled_structure(self, atoms: Atoms, states: np.ndarray | None) -> Structure:
        """Return the structure under given charge states; raise UserError for a non-periodic cell."""
        cell, positions = np.array(atoms.cell, dtype=float), np.array(atoms.positions, dtype=float)
        if not atoms.pbc.all() or abs(np.linalg.det(cell)) < 1e-6:
            raise UserError(
                f"{atoms.get_chemical_formula()} is not periodic in three directions; the models "
                "know crystals only: give a cell and set pbc"
            )
        require_ordered(atoms, atoms.get_chemical_formula())
        if not np.isfinite(positions).all():
            raise UserError(f"{atoms.get_chemical_formula()} has positions that are not finite")
        numbers = np.array(atoms.numbers, dtype=np.int64)
        return Structure(self.species(numbers, states), numbers, positions, cell)

    def predict(
        self,
        atoms: Sequence[Atoms | PymatgenStructure],
        *,
        stress: bool = False,
        batch_size: int = 16,
        assign: Assign = "labels",
    ) -> list[Prediction]:
        """Evaluate structures in batches; a UserError names the structure by its place in the list.

        Structures of pymatgen are taken too, with their oxidation states (see ``as_atoms``).

        With ``assign="search"`` a structure without charge states is evaluated under each neutral
        assignment and the one of lowest energy is reported; given ones are used, and nothing is searched.
        An energy that is not finite is reported only where none is.
        """
        owners: list[int] = []
        states: list[np.ndarray | None] = []
        structures: list[Structure] = []
        for place, given in enumerate(atoms):
            try:
                item = as_atoms(given)
                for candidate in self.candidates(item, assign):
                    structures.append(self.labelled_structure(item, candidate))
                    states.append(candidate)
                    owners.append(place)
            except UserError as error:
                raise UserError(f"{_place(place, len(atoms))}{error}") from error
        best: dict[int, Prediction] = {}
        size = batch_size if self.batched else 1
        for start in range(0, len(structures), size):
            chunk = structures[start : start + size]
            try:
                output = self.evaluate(chunk, stress=stress)
            except UserError:
                self._name_the_first(chunk, owners[start : start + size], len(atoms), stress)
                raise  # of the batch as a whole
            parts = split_output(output, [len(item.species) for item in chunk])
            for index, prediction in enumerate(parts, start):
                known = best.get(owners[index])
                if known is None or _rank(prediction) < _rank(known):
                    best[owners[index]] = replace(prediction, oxidation_states=states[index])
        return [best[place] for place in range(len(atoms))]

    def _name_the_first(
        self, chunk: Sequence[Structure], owners: Sequence[int], total: int, stress: bool
    ) -> None:
        """Raise the UserError of the first structure of a batch that has one alone, with its place."""
        for owner, item in zip(owners, chunk, strict=True):
            try:
                self.evaluate([item], stress=stress)
            except UserError as error:
                raise UserError(f"{_place(owner, total)}{error}") from error


def _rank(prediction: Prediction) -> float:
    """Return the energy by which assignments are compared; one that is not finite is above all others."""
    return prediction.energy if np.isfinite(prediction.energy) else np.inf


def _place(index: int, total: int) -> str:
    return f"structure {index + 1} of {total}: " if total > 1 else ""


def split_output(output: Output, n_atoms: Sequence[int]) -> list[Prediction]:
    """Split the output of a batch into one prediction per system (charge states left empty)."""
    arrays = {key: value.detach().cpu().numpy() for key, value in output.items()}
    ends = np.cumsum(n_atoms)
    predictions = []
    for system, (start, end) in enumerate(zip(ends - n_atoms, ends, strict=True)):

        def per_atom(key: str, rows: slice = slice(int(start), int(end))) -> np.ndarray | None:
            return arrays[key][rows].copy() if key in arrays else None

        predictions.append(
            Prediction(
                energy=float(arrays["energy"][system]),
                forces=arrays["forces"][start:end].astype(float),
                stress=arrays["stress"][system].astype(float) if "stress" in arrays else None,
                magmoms=per_atom("magmoms"),
                charges=per_atom("charges"),
                embeddings=arrays["node_embeddings"][start:end].copy(),
                oxidation_states=None,
            )
        )
    return predictions
