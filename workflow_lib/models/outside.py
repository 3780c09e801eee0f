"""Potentials that were not trained here: shipped weights by name, calculators of ASE by import path."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.stress import voigt_6_to_full_3x3_stress

from workflow_lib.core.code import code_checksum
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import digest_of, sha256
from workflow_lib.core.progress import say
from workflow_lib.models.contract import Output, Species, Structure
from workflow_lib.models.device import usable
from workflow_lib.models.identity import OUTSIDE
from workflow_lib.models.outside_settings import (
    SHIPPED,
    OutsideModel,
    argument_files,
    is_calculator,
    module_files,
)
from workflow_lib.models.predictor import Origin, Predictor
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.trained import CARD, SCHEMA, TrainedModel, species_to_card

_ADDRESS = re.compile(r"\b0x[0-9a-f]+")
"""In what Python shows of an object without a text of its own; another one in each process."""


def load_predictor(name: str | Path, device: str = "cpu") -> Predictor:
    """Return a potential by the folder of a trained model, a shipped name, or ``module:calculator``.

    The last is any calculator of ASE: a class, or a function without arguments that returns one, such
    as ``ase.calculators.emt:EMT``. Raises UserError for what is none of these.
    """
    text = str(name)
    if text in SHIPPED:
        return shipped(text, device=device)
    if is_calculator(text):
        return AsePredictor(import_calculator(text), text)
    if not (Path(text) / CARD).is_file():
        raise UserError(
            f"{text} is no potential: it is no folder with a {CARD} (such as results/<run>/training/<id>), "
            f"no shipped name ({', '.join(SHIPPED)}) and no calculator of ASE (package.module:Name)"
        )
    model = TrainedModel.load(text, device)
    if model.origin.status != "ok":
        say(f"{text}: the training ended as {model.origin.status}; what it predicts means nothing")
    return model


def load_outside(settings: OutsideModel, device: str = "cpu") -> Predictor:
    """Return a potential of the configuration under the name that it has there."""
    if settings.potential in SHIPPED:
        return shipped(settings.potential, name=settings.name, device=device)
    calculator = import_calculator(settings.potential, settings.arguments)
    return AsePredictor(
        calculator,
        settings.potential,
        name=settings.name,
        level=settings.level,
        arguments=settings.arguments,
    )


def shipped(potential: str, *, name: str | None = None, device: str = "cpu") -> TrainedModel:
    """Return the weights of :data:`SHIPPED` as they are, with all elements they know, charge-blind."""
    from workflow_lib.models import chgnet

    version, level = SHIPPED[potential]
    family = FAMILIES["chgnet"]
    hyperparameters = family.hyperparameters.model_validate({"pretrained": version})
    every = tuple(range(1, chgnet.TABLE + 1))
    species = Species(every, {z: z for z in every})
    network = family.load().build(hyperparameters, species, init="pretrained", seed=0)
    network.requires_grad_(False)
    card = {
        "schema": SCHEMA,
        "name": name or potential,
        "family": "chgnet",
        "init": "pretrained",
        "variant": OUTSIDE.name,
        "hyperparameters": hyperparameters.model_dump(mode="json"),
        "species": species_to_card(species),
        "redox_embedding": "none",
        "energy_reference": level,
        "status": "ok",
        "training": {"steps": 0},
        "tensors_sha256": chgnet.SHIPPED[version],
    }
    return TrainedModel(network.to(usable(device)), card)


def import_calculator(path: str, arguments: Mapping[str, Any] | None = None) -> BaseCalculator:
    """Return the calculator that ``module:attribute`` names; UserError where it does not import.

    A module in the working directory is found, last of all, whichever way the program was started.
    """
    module, _, attribute = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        found = getattr(import_module(module), attribute)
        calculator = found(**(arguments or {})) if callable(found) else found
    except Exception as error:  # whatever someone's module raises is a fault of the path given
        reason = " ".join(str(error).split())
        raise UserError(f"{path} gives no calculator ({type(error).__name__}: {reason})") from error
    if not isinstance(calculator, BaseCalculator):
        raise UserError(
            f"{path} gives a {type(calculator).__name__}, not a calculator of ASE; name a class, or a "
            "function that returns one"
        )
    return calculator


def _known(value: Any) -> Any:
    """Return what is known of a parameter in every process: plain values, whole arrays, else its type."""
    if isinstance(value, Mapping):
        return {str(key): _known(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        if value.dtype == object or value.ndim == 0:
            return _known(value.tolist())
        return [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    text = repr(value)
    return f"{type(value).__module__}.{type(value).__qualname__}" if _ADDRESS.search(text) else text


def _version(path: str) -> str | None:
    """Return the version of the package that a calculator comes from; None for a module of the user."""
    package = path.partition(":")[0].partition(".")[0]
    names = packages_distributions().get(package, ())
    return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None


class AsePredictor(Predictor):
    """A calculator of ASE behind the predictor protocol: charge-blind, one structure after another.

    Its level of theory is unknown unless given, so that its energies are never compared with others. Its
    identity is the import path with arguments, the calculator's parameters, the contents of files that the
    arguments name, and the version of the package that it comes from, or the text of a module of the user.
    """

    batched: ClassVar[bool] = False
    charge_labelled = False
    elements = None
    device = torch.device("cpu")
    predicts: frozenset[str] = frozenset()
    level: str | None = None
    name: str = ""

    def __init__(
        self,
        calculator: BaseCalculator,
        path: str,
        *,
        name: str | None = None,
        level: str | None = None,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self.calculator, self.path, self.level = calculator, path, level
        self.name = name or path
        self.arguments = dict(arguments or {})
        self.predicts = frozenset({"magmoms", "charges"} & set(calculator.implemented_properties))

    @property
    def origin(self) -> Origin:
        """See :class:`Predictor`."""
        return Origin(self.name, "ase", "none", OUTSIDE.name, None, None)

    @property
    def identity(self) -> str:
        """Hash of path, arguments, parameters and the code that asks the calculator."""
        return digest_of([self.calculator_identity, code_checksum(__name__)])

    @cached_property
    def calculator_identity(self) -> str:
        """Hash of path, arguments, files, version and parameters, which stays when this program changes.

        Of the files as they are at the first look, however a calculator changes them at work.
        """
        parameters = {
            key: _known(value) for key, value in getattr(self.calculator, "parameters", {}).items()
        }
        files = {name: sha256(name) for name in [*module_files(self.path), *argument_files(self.arguments)]}
        return digest_of([self.path, self.arguments, parameters, files, _version(self.path)])

    @property
    def gives_stress(self) -> bool:
        """See :class:`Predictor`."""
        return "stress" in self.calculator.implemented_properties

    def evaluate(self, structures: Sequence[Structure], *, stress: bool = False) -> Output:
        """See :class:`Predictor`."""
        parts = [self._one(item, stress) for item in structures]
        output = {
            "energy": torch.tensor([part["energy"] for part in parts], dtype=torch.float64),
            "node_embeddings": torch.zeros(
                (sum(len(item.atomic_numbers) for item in structures), 0), dtype=torch.float64
            ),
        }
        if stress:
            output["stress"] = torch.as_tensor(np.stack([part["stress"] for part in parts]))
        for name in ("forces", *self.predicts):
            output[name] = torch.as_tensor(np.concatenate([part[name] for part in parts]))
        return output

    def _one(self, structure: Structure, stress: bool) -> dict[str, Any]:
        atoms = Atoms(structure.atomic_numbers, structure.positions, cell=structure.cell, pbc=True)
        try:
            found: dict[str, Any] = {
                "energy": float(self.calculator.get_potential_energy(atoms)),
                "forces": np.array(self.calculator.get_forces(atoms), dtype=float),
            }
            if stress:
                found["stress"] = voigt_6_to_full_3x3_stress(
                    np.array(self.calculator.get_stress(atoms), dtype=float)
                )
            for name in self.predicts:
                try:
                    found[name] = np.array(self.calculator.get_property(name, atoms), dtype=float)
                except PropertyNotImplementedError:  # some name more than they give
                    self.predicts -= {name}
        except NotImplementedError as error:
            # A calculator has taken the atoms in before it refuses them; asked again for the same ones, EMT
            # skips its own check and gives a number.
            self.calculator.atoms, self.calculator.results = None, {}
            if isinstance(error, PropertyNotImplementedError):
                raise UserError(f"{self.name} does not give all that is asked of it ({error})") from error
            raise UserError(f"{self.name} cannot calculate it ({error})") from error
        if "magmoms" in found:
            found["magmoms"] = np.abs(found["magmoms"])
        return found
