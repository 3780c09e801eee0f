"""A trained model: a potential with the card that describes it, in a folder of two files.

``model.safetensors`` holds tensors and nothing that could be executed; ``card.json`` holds what is
needed to build the network again. No pickle is ever read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import ArrayLike
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workflow_lib.core.code import PACKAGE, code_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, read_json, sha256, to_json, write_json
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.contract import Batch, Output, Potential, Species, Structure
from workflow_lib.models.predictor import Assign, Prediction
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import rule_from_card

SCHEMA = 1
TENSORS, CARD = "model.safetensors", "card.json"
REQUIRED = (
    "name",
    "family",
    "init",
    "hyperparameters",
    "species",
    "redox_embedding",
    "energy_reference",
    "status",
)
LABELS = "oxidation_states"
MOMENTS = ("REF_magmom", "REF_magmoms", "magmoms")
"""Per-atom arrays that are searched for given moments, in this order.

``initial_magmoms`` is a guess made before a calculation, and decides nothing.
"""
MAX_ASSIGNMENTS = 1000
"""Largest number of neutral assignments that ``assign="search"`` tries for one structure."""


def species_to_card(species: Species) -> dict[str, Any]:
    """Return the JSON form of an alphabet."""
    return {
        "labels": list(species.labels),
        "physical": {str(label): z for label, z in species.physical.items()},
    }


def species_from_card(card: Mapping[str, Any]) -> Species:
    """Return the alphabet of a card, the inverse of :func:`species_to_card`."""
    return Species(
        tuple(int(label) for label in card["labels"]),
        {int(label): int(z) for label, z in card["physical"].items()},
    )


class TrainedModel:
    """A potential in evaluation mode and its card (keys: see :data:`REQUIRED` and design).

    A model trained without stress returns no stress (UserError), because cells relaxed with it
    would be wrong by percents, unless ``allow_untrained_stress`` asks for it explicitly.
    """

    def __init__(
        self, potential: Potential, card: Mapping[str, Any], *, allow_untrained_stress: bool = False
    ) -> None:
        self.potential = potential.eval()
        self.allow_untrained_stress = allow_untrained_stress
        self.card = dict(card)
        labelled = self.card["redox_embedding"] != "none"
        self.rule: RedoxRule | None = rule_from_card(self.card) if labelled else None

    @property
    def name(self) -> str:
        """Name in the card."""
        return str(self.card["name"])

    @property
    def level(self) -> str:
        """Level of theory of the training data."""
        return str(self.card["energy_reference"])

    @property
    def predicts(self) -> frozenset[str]:
        """Per-atom labels besides forces: a subset of {"magmoms", "charges"}."""
        return self.potential.predicts

    @property
    def charge_labelled(self) -> bool:
        """Whether the model distinguishes the charge states of the redox element."""
        return self.rule is not None

    @property
    def identity(self) -> str:
        """Hash of everything that decides the model's results: tensors, labels, code of the adapter.

        Raises ValueError for a model that was never saved.
        """
        if "tensors_sha256" not in self.card:
            raise ValueError("only a saved model has an identity: call TrainedModel.save first")
        keys = ("tensors_sha256", "family", "hyperparameters", "species", "redox_embedding")
        adapter = type(self.potential).__module__
        own = [adapter] if adapter.startswith(f"{PACKAGE}.") else []
        code = code_checksum(__name__, *own)
        return hashlib.sha256(to_json([{key: self.card[key] for key in keys}, code]).encode()).hexdigest()

    @property
    def trained_on_stress(self) -> bool:
        """Whether stresses entered the last training, or are those of unchanged shipped weights."""
        training = self.card.get("training", {})
        steps = training.get("steps")
        if steps is None:
            return False  # a card of an earlier program does not say, and a fine-tuned one would pass
        if steps == 0:
            return self.card["init"] == "pretrained"
        terms = training.get("settings", {}).get("loss", [])
        return any(term["label"] == "stress" for term in terms)

    @property
    def elements(self) -> frozenset[int]:
        """Atomic numbers of the elements that the model knows."""
        return frozenset(self.potential.species.physical.values())

    @property
    def device(self) -> torch.device:
        """Device that the network runs on."""
        return self.potential.reference_energies.device

    def save(self, folder: str | Path) -> None:
        """Write the two files, the card last: a torn pair is recognised by its checksum."""
        missing = [key for key in REQUIRED if key not in self.card]
        if missing:
            raise ValueError(f"the card lacks {missing}")
        folder = Path(folder)
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in self.potential.state_dict().items()
        }
        with atomic_path(folder / TENSORS) as temporary:
            save_file(tensors, temporary, metadata={"family": self.card["family"]})
        self.card["schema"] = SCHEMA
        self.card["tensors_sha256"] = sha256(folder / TENSORS)
        write_json(folder / CARD, self.card)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str | torch.device = "cpu",
        *,
        allow_untrained_stress: bool = False,
    ) -> Self:
        """Build a network from its card and load its tensors; UserError for a damaged or foreign folder."""
        folder = Path(folder)
        if not (folder / CARD).is_file():
            raise UserError(
                f"{folder} holds no trained model ({CARD} is missing); give a folder such as "
                "results/<run>/training/<model>"
            )
        card = read_json(folder / CARD)
        potential = _build(card, folder)
        _fill(potential, card, folder)
        potential.requires_grad_(False)
        return cls(potential.to(device), card, allow_untrained_stress=allow_untrained_stress)

    def oxidation_states(self, atoms: Atoms) -> np.ndarray | None:
        """Return the charge states given with a structure, by label or else by moments; None if not given.

        Raises UserError for labels that are not neutral, or moments that fit no charge states.
        """
        if self.rule is None:
            return None
        if atoms.has(LABELS):
            states = _whole_numbers(atoms.arrays[LABELS])
            self.rule.check_neutral(atoms.numbers, states)
            return states
        moments = _given_moments(atoms)
        if moments is None:
            return None
        found, reason = self.rule.assign(atoms.numbers, moments, self.card["energy_reference"])
        if found is None:
            raise UserError(
                f"the given moments do not settle the charge states ({reason}); give an {LABELS!r} array"
            )
        return found

    def candidates(self, atoms: Atoms, assign: Assign = "labels") -> list[np.ndarray | None]:
        """Return charge states to evaluate: the given ones, or with ``"search"`` every neutral assignment.

        Raises UserError if none are given and no search was asked for, or if there are more than
        :data:`MAX_ASSIGNMENTS`.
        """
        if self.rule is None:
            return [None]
        states = self.oxidation_states(atoms)
        if states is not None:
            return [states]
        rule, numbers = self.rule, atoms.numbers
        if assign != "search":
            raise UserError(
                f"model {self.card['name']} needs charge states: give an array {LABELS!r} "
                f"({rule.element}: {rule.low} or {rule.high}, all others 0) or magnetic moments, "
                "or ask for the best neutral assignment with --assign search"
            )
        sites, reduced = np.flatnonzero(numbers == rule.redox_z), rule.n_reduced(numbers)
        count = comb(len(sites), reduced)
        if count > MAX_ASSIGNMENTS:
            raise UserError(
                f"{count} neutral assignments of {reduced} {rule.element}{rule.low}+ to "
                f"{len(sites)} sites are too many to try (limit {MAX_ASSIGNMENTS}); give "
                f"an array {LABELS!r} or a smaller cell"
            )
        found: list[np.ndarray | None] = []
        for chosen in combinations(sites, reduced):
            states = np.zeros(len(numbers), dtype=np.int64)
            states[sites] = rule.high
            states[list(chosen)] = rule.low
            found.append(states)
        return found

    def choose(self, atoms: Atoms, assign: Assign = "labels") -> np.ndarray | None:
        """Return the charge states to use for ``atoms``: the given ones, or those of lowest energy.

        None for a charge-blind model; raises UserError as :meth:`candidates` does.
        """
        candidates = self.candidates(atoms, assign)
        if len(candidates) == 1:
            return candidates[0]
        [prediction] = self.predict([atoms], assign=assign)
        return prediction.oxidation_states

    def structure(self, atoms: Atoms, assign: Assign = "labels") -> Structure:
        """Return the network's input for ``atoms`` under the charge states of :meth:`choose`."""
        return self.labelled_structure(atoms, self.choose(atoms, assign))

    def species(self, numbers: np.ndarray, states: np.ndarray | None) -> np.ndarray:
        """Return the labels [n] the network sees for elements [n] in given charge states [n]."""
        if self.rule is None:
            return np.array(numbers, dtype=np.int64)
        return self.rule.embed(numbers, states, self.card["redox_embedding"])

    def labelled_structure(self, atoms: Atoms, states: np.ndarray | None) -> Structure:
        """Return the structure under given charge states; raise UserError for a non-periodic cell."""
        cell, positions = np.array(atoms.cell, dtype=float), np.array(atoms.positions, dtype=float)
        if not atoms.pbc.all() or abs(np.linalg.det(cell)) < 1e-6:
            raise UserError(
                f"{atoms.get_chemical_formula()} is not periodic in three directions; the models "
                "know crystals only: give a cell and set pbc"
            )
        if not np.isfinite(positions).all():
            raise UserError(f"{atoms.get_chemical_formula()} has positions that are not finite")
        numbers = np.array(atoms.numbers, dtype=np.int64)
        return Structure(self.species(numbers, states), numbers, positions, cell)

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """Run one batch; return tensors without gradients on the model's device (see the contract).

        Raises UserError if a stress is asked for that the model has not learned.
        """
        if stress and not (self.allow_untrained_stress or self.trained_on_stress):
            raise UserError(
                f"model {self.card['name']} was trained without stress and gives none: cells relaxed with "
                "it would be wrong. Train it with a stress term in training.loss, keep the cell fixed, or "
                "ask for it by name (allow_untrained_stress=True)"
            )
        batch: Batch = self.potential.collate([self.potential.graph(item) for item in structures])
        batch = {key: value.to(self.device) for key, value in batch.items()}
        output = self.potential(batch, stress=stress)
        return {key: value.detach() for key, value in output.items()}

    def _evaluate(
        self, structures: Sequence[Structure], stress: bool, batch_size: int
    ) -> list[tuple[Output, Sequence[Structure]]]:
        chunks = [structures[start : start + batch_size] for start in range(0, len(structures), batch_size)]
        return [(self.evaluate(chunk, stress=stress), chunk) for chunk in chunks]

    def predict(
        self,
        atoms: Sequence[Atoms],
        *,
        stress: bool = False,
        batch_size: int = 16,
        assign: Assign = "labels",
    ) -> list[Prediction]:
        """Evaluate structures in batches; a UserError names the structure by its place in the list.

        With ``assign="search"`` a structure without charge states is evaluated under each neutral
        assignment and the one of lowest energy is reported.
        """
        owners: list[int] = []
        states: list[np.ndarray | None] = []
        structures: list[Structure] = []
        for place, item in enumerate(atoms):
            try:
                for candidate in self.candidates(item, assign):
                    structures.append(self.labelled_structure(item, candidate))
                    states.append(candidate)
                    owners.append(place)
            except UserError as error:
                where = f"structure {place + 1} of {len(atoms)}: " if len(atoms) > 1 else ""
                raise UserError(f"{where}{error}") from error
        best: dict[int, Prediction] = {}
        index = 0
        for output, chunk in self._evaluate(structures, stress, batch_size):
            for prediction in split_output(output, [len(item.species) for item in chunk]):
                known = best.get(owners[index])
                if known is None or prediction.energy < known.energy:
                    best[owners[index]] = replace(prediction, oxidation_states=states[index])
                index += 1
        return [best[place] for place in range(len(atoms))]


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


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Return labels as integers; UserError names the first that is not a whole number."""
    try:
        if np.iscomplexobj(values):
            raise TypeError
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise UserError(f"{LABELS} must be whole numbers, got {np.ravel(values)[0]!r}") from None
    # Compared before the conversion: 2.9 would become 2, and NaN some integer.
    wrong = np.flatnonzero(~(np.abs(numbers) < 100) | (numbers != np.rint(numbers)))
    if len(wrong):
        raise UserError(
            f"{LABELS} must be whole numbers, atom {wrong[0]} has {np.ravel(numbers)[wrong[0]]}"
        )
    return numbers.astype(np.int64)


def _given_moments(atoms: Atoms) -> np.ndarray | None:
    """Return moments ``[n]`` in muB from the results attached to a structure, else from its arrays.

    Raises UserError for the vectors of a non-collinear calculation.
    """
    # Only results that came with the structure: those of a live calculator belong to another
    # geometry, or to a model whose guess must not pass for data.
    if isinstance(atoms.calc, SinglePointCalculator) and atoms.calc.results.get("magmoms") is not None:
        return _collinear(atoms.calc.results["magmoms"], len(atoms))
    for name in MOMENTS:
        if atoms.has(name):
            return _collinear(atoms.arrays[name], len(atoms))
    return None


def _collinear(values: ArrayLike, count: int) -> np.ndarray:
    moments = np.asarray(values)
    if moments.size != count:
        raise UserError(
            f"the magnetic moments are {moments.size} numbers for {count} atoms; give one per atom "
            "(collinear moments)"
        )
    return moments.reshape(count)


def _build(card: Any, folder: Path) -> Potential:
    """Return the network of a card, without its weights."""
    needed = ("schema", "tensors_sha256", *REQUIRED)
    missing = [key for key in needed if not isinstance(card, dict) or key not in card]
    if missing:
        raise UserError(f"{folder / CARD} lacks {', '.join(missing)}: not the card of a model")
    if card["schema"] != SCHEMA:
        raise UserError(
            f"{folder / CARD} has schema {card['schema']}, this program reads {SCHEMA}; "
            "train the model again"
        )
    family = FAMILIES.get(card["family"])
    if family is None:
        raise UserError(
            f"{folder / CARD} names the family {card['family']!r}; known are {', '.join(FAMILIES)}"
        )
    try:
        hyperparameters = family.hyperparameters.model_validate(card["hyperparameters"])
        species = species_from_card(card["species"])
        if card["redox_embedding"] != "none":
            rule_from_card(card)
    except (ValidationError, ValueError, KeyError, AttributeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder / CARD} does not describe a {card['family']} model ({reason})") from error
    return family.load().build(hyperparameters, species, init=card["init"], seed=0)


def _fill(potential: Potential, card: Mapping[str, Any], folder: Path) -> None:
    """Load the tensors of a folder into a network; raise UserError unless they are exactly its own."""
    path = folder / TENSORS
    if not path.is_file():
        raise UserError(f"{path} does not exist; copy it from where the model was trained")
    if sha256(path) != card["tensors_sha256"]:
        raise UserError(
            f"{path} is damaged or belongs to another card (checksum differs from {CARD}); "
            "copy both files again"
        )
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is no safetensors file ({error}); copy it again") from error
    expected = potential.state_dict()
    for name, tensor in tensors.items():
        # Torch would silently convert another type and compute with numbers that are not finite.
        if name in expected and tensor.dtype != expected[name].dtype:
            found, right = _plain(tensor.dtype), _plain(expected[name].dtype)
            raise UserError(
                f"{path}: {name} is {found}, its card describes {right}; "
                "train the model again or copy the file that belongs to the card"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; train the model again")
    try:
        potential.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} does not fit the {card['family']} model its card describes ({reason})"
        ) from error


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
