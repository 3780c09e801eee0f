"""The table of families: one line each. An adapter is imported only when a potential is built."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from workflow_lib.models import hyperparameters as hp

if TYPE_CHECKING:
    from workflow_lib.models.contract import Potential


@dataclass(frozen=True, slots=True)
class Family:
    """The module of a family's adapter, its hyperparameters and what it predicts besides forces."""

    adapter: str
    hyperparameters: type[hp.Hyperparameters]
    predicts: frozenset[str] = frozenset()
    pretrained: bool = False

    def load(self) -> type[Potential]:
        """Import the adapter class (slow: brings torch and the upstream package)."""
        return getattr(import_module(self.module), self.adapter.partition(":")[2])

    @property
    def module(self) -> str:
        """Module that holds the adapter; it is loaded by this name, which no import shows."""
        return f"workflow_lib.models.{self.adapter.partition(':')[0]}"


FAMILIES: dict[str, Family] = {
    "mace": Family("mace:MacePotential", hp.MaceHyperparameters),
    "painn": Family("painn:PainnPotential", hp.PainnHyperparameters),
    "cpainn": Family("cpainn:CpainnPotential", hp.CpainnHyperparameters, frozenset({"magmoms", "charges"})),
    "chgnet": Family(
        "chgnet:ChgnetPotential", hp.ChgnetHyperparameters, frozenset({"magmoms"}), pretrained=True
    ),
}
