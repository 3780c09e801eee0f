"""Potentials that were not trained here: shipped weights by name, calculators of ASE by import path."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress

from workflow_lib.core.code import code_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import to_json
from workflow_lib.models.contract import Output, Species, Structure
from workflow_lib.models.predictor import Assign, Prediction, Predictor
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.trained import CARD, SCHEMA, TrainedModel, species_to_card

SHIPPED: dict[str, tuple[str, str]] = {
    "chgnet-0.3.0": ("0.3.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-0.2.0": ("0.2.0", "VASP/PBE and PBE+U of the Materials Project, MP2020 corrections"),
    "chgnet-r2scan": ("r2scan", "VASP/r2SCAN of the Materials Project"),
}
"""Named potentials: the version of the weights in the installed chgnet, and their level of theory."""


def load_predictor(name: str | Path, device: str = "cpu") -> Predictor:
    """Return a potential by the folder of a trained model, a shipped name, or ``module:calculator``.

    The last is any calculator of ASE: a class, or a function without arguments that returns one, such
    as ``ase.calculators.emt:EMT``. Raises UserError for what is none of these.
    """
    text = str(name)
    if text in SHIPPED:
        return shipped(text, device)
    if ":" in text and not Path(text).exists():
        return AsePredictor(import_calculator(text), text)
    if not (Path(text) / CARD).is_file():
        raise UserError(
            f"{text} is no potential: it is no folder with a {CARD} (such as results/<run>/training/<id>), "
            f"no shipped name ({', '.join(SHIPPED)}) and no calculator of ASE (package.module:Name)"
        )
    return TrainedModel.load(text, device)


def shipped(name: str, device: str = "cpu") -> TrainedModel:
    """Return the weights of :data:`SHIPPED` as they are, with all elements they know, charge-blind."""
    from workflow_lib.models import chgnet

    version, level = SHIPPED[name]
    family = FAMILIES["chgnet"]
    hyperparameters = family.hyperparameters.model_validate({"pretrained": version})
    every = tuple(range(1, chgnet.TABLE + 1))
    species = Species(every, {z: z for z in every})
    potential = family.load().build(hyperparameters, species, init="pretrained", seed=0)
    potential.requires_grad_(False)
    card = {
        "schema": SCHEMA,
        "name": name,
        "family": "chgnet",
        "init": "pretrained",
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "species": species_to_card(species),
        "redox_embedding": "none",
        "energy_reference": level,
        "status": "ok",
        "training": {"steps": 0},
        "tensors_sha256": chgnet.SHIPPED[version],
    }
    return TrainedModel(potential.to(device), card)


def import_calculator(path: str) -> BaseCalculator:
    """Return the calculator that ``module:attribute`` names; UserError where it does not import."""
    module, _, attribute = path.partition(":")
    try:
        found = getattr(import_module(module), attribute)
        calculator = found() if callable(found) else found
    except Exception as error:  # whatever someone's module raises is a fault of the path given
        reason = " ".join(str(error).split())
        raise UserError(f"{path} gives no calculator ({type(error).__name__}: {reason})") from error
    if not isinstance(calculator, BaseCalculator):
        raise UserError(
            f"{path} gives a {type(calculator).__name__}, not a calculator of ASE; name a class, or a "
            "function without arguments that returns one"
        )
    return calculator


class AsePredictor:
    """A calculator of ASE behind the predictor protocol: charge-blind, one structure after another.

    Its level of theory is unknown unless given, so that its energies are never compared with others;
    ``name`` is the import path, which with the calculator's parameters is its identity.
    """

    charge_labelled = False
    elements = None
    device = torch.device("cpu")

    def __init__(self, calculator: BaseCalculator, name: str, level: str | None = None) -> None:
        self.calculator, self.name, self.level = calculator, name, level
        named = set(calculator.implemented_properties)
        self.predicts = frozenset({"magmoms", "charges"} & named)

    @property
    def identity(self) -> str:
        """Hash of name and parameters; weights behind a path that change are another path's business."""
        parameters = {key: repr(value) for key, value in getattr(self.calculator, "parameters", {}).items()}
        text = to_json([self.name, parameters, code_checksum(__name__)])
        return hashlib.sha256(text.encode()).hexdigest()

    def choose(self, atoms: Atoms, assign: Assign = "labels") -> np.ndarray | None:
        """See :class:`Predictor`."""
        return None

    def species(self, numbers: np.ndarray, states: np.ndarray | None) -> np.ndarray:
        """See :class:`Predictor`."""
        return np.array(numbers, dtype=np.int64)

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """See :class:`Predictor`."""
        atoms = [Atoms(s.atomic_numbers, s.positions, cell=s.cell, pbc=True) for s in structures]
        found = self.predict(atoms, stress=stress)
        total = sum(map(len, atoms))
        output = {
            "energy": torch.tensor([item.energy for item in found], dtype=torch.float64),
            "forces": torch.as_tensor(np.concatenate([item.forces for item in found])),
            "node_embeddings": torch.zeros((total, 0), dtype=torch.float64),
        }
        if stress:
            output["stress"] = torch.as_tensor(
                np.stack([item.stress for item in found if item.stress is not None])
            )
        for name in self.predicts:
            output[name] = torch.as_tensor(np.concatenate([getattr(item, name) for item in found]))
        return output

    def predict(
        self,
        atoms: Sequence[Atoms],
        *,
        stress: bool = False,
        batch_size: int = 16,
        assign: Assign = "labels",
    ) -> list[Prediction]:
        """See :class:`Predictor`."""
        return [
            self._one(item, stress, f"structure {i} of {len(atoms)}") for i, item in enumerate(atoms, 1)
        ]

    def _one(self, given: Atoms, stress: bool, where: str) -> Prediction:
        atoms = Atoms(given.numbers, given.positions, cell=given.cell, pbc=given.pbc)
        try:
            energy = float(self.calculator.get_potential_energy(atoms))
            forces = np.array(self.calculator.get_forces(atoms), dtype=float)
            tensor = None
            if stress:
                tensor = voigt_6_to_full_3x3_stress(
                    np.array(self.calculator.get_stress(atoms), dtype=float)
                )
            moments = self._labels("magmoms", atoms)
            charges = self._labels("charges", atoms)
        except PropertyNotImplementedError as error:
            raise UserError(f"{self.name} does not give all that is asked of it ({error})") from error
        except NotImplementedError as error:
            raise UserError(f"{where}: {self.name} cannot calculate it ({error})") from error
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise UserError(f"{where}: {self.name} gives an energy or forces that are not finite")
        return Prediction(
            energy=energy,
            forces=forces,
            stress=tensor,
            magmoms=None if moments is None else np.abs(moments),
            charges=charges,
            embeddings=np.zeros((len(atoms), 0)),
            oxidation_states=None,
        )

    def _labels(self, name: str, atoms: Atoms) -> np.ndarray | None:
        if name not in self.predicts:
            return None
        try:
            return np.array(self.calculator.get_property(name, atoms), dtype=float)
        except PropertyNotImplementedError:  # some name more than they give
            self.predicts -= {name}
            return None
