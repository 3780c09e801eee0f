"""The table of families: one line each. Adapters are imported only when one is built."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from workflow_lib.models import hyperparameters as hp

if TYPE_CHECKING:
    from workflow_lib.models.contract import Potential


@dataclass(frozen=True, slots=True)
class Family:
    """Where a family's adapter lives, what it can be told and what it predicts besides forces."""

    adapter: str
    hyperparameters: type[hp.Hyperparameters]
    predicts: frozenset[str] = frozenset()
    pretrained: bool = False

    def load(self) -> type[Potential]:
        """Import the adapter class (slow: brings torch and the upstream package)."""
        module, _, name = self.adapter.partition(":")
        return getattr(import_module(f"workflow_lib.models.{module}"), name)


FAMILIES: dict[str, Family] = {
    "mace": Family("mace:MacePotential", hp.MaceHyperparameters),
    "painn": Family("painn:PainnPotential", hp.PainnHyperparameters),
    "cpainn": Family("cpainn:CpainnPotential", hp.CpainnHyperparameters, frozenset({"magmoms", "charges"})),
    "chgnet": Family(
        "chgnet:ChgnetPotential", hp.ChgnetHyperparameters, frozenset({"magmoms"}), pretrained=True
    ),
}
