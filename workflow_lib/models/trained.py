"""A trained model: a potential with the card that describes it, in a folder of two files.

``model.safetensors`` holds tensors and nothing that could be executed; ``card.json`` holds what is
needed to build the network again. No pickle is ever read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from ase import Atoms
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from workflow_lib.core.code import PACKAGE, code_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, digest_of, read_json, sha256, write_json
from workflow_lib.lattice.redox import LABELS, RedoxRule
from workflow_lib.models.contract import Batch, Output, Potential, Species, Structure
from workflow_lib.models.device import usable
from workflow_lib.models.given_states import given_states, neutral_assignments
from workflow_lib.models.graph import check_known
from workflow_lib.models.neighbours import Edges
from workflow_lib.models.predictor import Assign, Origin, Predictor
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
    "training",
)
DECISIVE = ("tensors_sha256", "family", "hyperparameters", "species", "redox_embedding")
"""Keys of a card on which what the network predicts depends."""


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


class TrainedModel(Predictor):
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
    def origin(self) -> Origin:
        """Columns of tables, from the card."""
        card = self.card
        return Origin(
            *(str(card["name"]), str(card["family"]), str(card["init"]), card.get("variant")),
            *(card.get("fold"), card.get("seed"), str(card["redox_embedding"]), str(card["status"])),
        )

    @property
    def level(self) -> str:
        """Level of theory of the training data."""
        return str(self.card["energy_reference"])

    @property
    def predicts(self) -> frozenset[str]:
        """Per-atom labels besides forces, a subset of {"magmoms", "charges"}.

        What an untrained head gives are random numbers: of a model trained from scratch only the labels
        that its steps used count, and :meth:`evaluate` leaves out the others.
        """
        heads = self.potential.predicts
        return heads if self.card["init"] == "pretrained" else heads & self._learnt

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
        adapter = type(self.potential).__module__
        own = [adapter] if adapter.startswith(f"{PACKAGE}.") else []
        code = code_checksum(__name__, *own)
        return digest_of([{key: self.card[key] for key in DECISIVE}, code])

    @property
    def gives_stress(self) -> bool:
        """Whether it was trained on stress, or its stress was asked for by name."""
        return self.allow_untrained_stress or self.trained_on_stress

    @property
    def trained_on_stress(self) -> bool:
        """Whether stresses entered the last training, or are those of unchanged shipped weights."""
        if self.card["training"]["steps"] == 0:
            return self.card["init"] == "pretrained"
        return "stress" in self._learnt

    @property
    def _learnt(self) -> frozenset[str]:
        """Labels that the steps of the last training used; of one that few frames have that may be none."""
        training = self.card["training"]
        return frozenset(training["trained_on"] if training["steps"] else ())

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
        folder, device = Path(folder), usable(device)
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
        return given_states(atoms, self.rule, self.level)

    def candidates(self, atoms: Atoms, assign: Assign = "labels") -> list[np.ndarray | None]:
        """Return charge states to evaluate: the given ones, or without any every neutral assignment.

        The latter with ``"search"`` alone; given charge states are used whatever is asked for.
        A structure without the redox element has none and needs none: [None]. Raises UserError if none
        are given and no search was asked for, or if there are too many to try.
        """
        if self.rule is None or self.rule.redox_z not in atoms.numbers:
            return [None]
        states = self.oxidation_states(atoms)
        if states is not None:
            return [states]
        rule = self.rule
        if assign != "search":
            raise UserError(
                f"model {self.card['name']} needs charge states: give an array {LABELS!r} "
                f"({rule.element}: {rule.low} or {rule.high}, all others 0) or magnetic moments, "
                "or ask for the best neutral assignment with --assign search"
            )
        return [*neutral_assignments(atoms.numbers, rule)]

    def species(self, numbers: np.ndarray, states: np.ndarray | None) -> np.ndarray:
        """Return the labels [n] the network sees for elements [n] in given charge states [n].

        Raises UserError for an element, or a charge state, that the model was not trained on.
        """
        if self.rule is None:
            labels = np.array(numbers, dtype=np.int64)
            check_known(labels, self.potential.species)
            return labels
        embedding = self.card["redox_embedding"]
        labels = self.rule.embed(numbers, states, embedding)
        check_known(labels, self.potential.species, partial(self.rule.shown, embedding=embedding))
        return labels

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """Run one batch; return tensors without gradients on the model's device (see the contract).

        Raises UserError if a stress is asked for that the model has not learned.
        """
        batch: Batch = self.potential.collate([self.potential.graph(item) for item in structures])
        return self._run({key: value.to(self.device) for key, value in batch.items()}, stress)

    @property
    def reach(self) -> float | None:
        """See :class:`Predictor`."""
        return self.potential.reach

    def evaluate_edges(self, atoms: Batch, edges: Edges, *, stress: bool = False) -> Output:
        """See :class:`Predictor`."""
        return self._run(self.potential.assemble(atoms, edges), stress)

    def _run(self, batch: Batch, stress: bool) -> Output:
        if stress and not self.gives_stress:
            raise UserError(
                f"model {self.card['name']} was trained without stress and gives none: cells relaxed with "
                "it would be wrong. Train it with a stress term in training.loss, keep the cell fixed, or "
                "ask for it by name (allow_untrained_stress=True)"
            )
        output = self.potential(batch, stress=stress)
        untrained = self.potential.predicts - self.predicts
        return {key: value.detach() for key, value in output.items() if key not in untrained}


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
        training = card["training"]
        _ = training["steps"] and training["trained_on"]  # decide what the model says it predicts
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
