"""Energies of arrangements: relaxed by a model, relative to its own end members."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from workflow_lib.host import Arrangement, Host
from workflow_lib.relaxation_cache import (
    RelaxationCache,
    host_identity,
    model_identity,
    relax_arrangements,
)
from workflow_lib.sampling.problem import Evaluation, finite
from workflow_lib.sampling.settings import CellSettings, SamplingSettings

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.trained import TrainedModel
    from workflow_lib.relaxation import Relaxation

UNIT = (1, 1, 1)


class Evaluator(Protocol):
    """Where the searches get their energies from.

    ``charges``: whether charge states are arranged; ``identity`` names whatever decides the
    energies, so that an interrupted search goes on only with the same energies.
    """

    @property
    def charges(self) -> bool:
        """Whether charge states are part of an arrangement."""

    @property
    def identity(self) -> str:
        """Changes with anything that changes an energy."""

    def evaluate(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Evaluation]:
        """Relaxed energies, in order."""

    def structure(self, arrangement: Arrangement, cell: CellSettings) -> Atoms:
        """The relaxed atoms of an arrangement that was evaluated."""


def end_members(host: Host, *, charges: bool) -> list[Arrangement]:
    """The empty and the full end member in the host's own cell."""
    sites = host.n_mobile(UNIT)
    return [
        Arrangement(UNIT, tuple(range(n)), tuple(range(host.n_reduced(UNIT, n))) if charges else None)
        for n in (0, sites)
    ]


class ModelEvaluator:
    """Relaxes with a trained model in Vegard cells and keeps the results in the shared cache.

    Formation energy per formula unit: E/fu - x E(full)/fu - (1 - x) E(empty)/fu in eV, the end
    members relaxed by the same model in the host's own cell, to the tightest ``fmax`` and with the
    most steps of all searched cells. Where an end member diverges there is no formation energy.
    """

    def __init__(
        self, model: TrainedModel, host: Host, cache: RelaxationCache, settings: SamplingSettings
    ) -> None:
        self.model, self.host, self.cache, self.settings = model, host, cache, settings
        self.charges = model.charge_labelled
        self.breathing = settings.breathing if self.charges else 0.0

    @property
    def identity(self) -> str:
        """Model, host, start and end members."""
        ends = self.settings.end_members
        return "|".join(
            (
                model_identity(self.model),
                host_identity(self.host),
                f"{self.breathing:.6g}|{ends.fmax:.6g}|{ends.max_steps}",
            )
        )

    def _relax(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Relaxation]:
        return relax_arrangements(
            self.model,
            self.host,
            arrangements,
            breathing=self.breathing,
            fmax=cell.fmax,
            max_steps=cell.max_steps,
            batch_size=self.settings.batch_size,
            cache=self.cache,
        )

    @cached_property
    def end_energies(self) -> tuple[float, float]:
        """Energies of the full and the empty end member in eV per formula unit."""
        members = end_members(self.host, charges=self.charges)
        empty, full = self._relax(members, self.settings.end_members)
        units = self.host.formula_units
        return (
            full.energy / units if full.status != "diverged" else float("nan"),
            empty.energy / units if empty.status != "diverged" else float("nan"),
        )

    def _formation(self, arrangement: Arrangement, energy: float) -> float | None:
        a, b, c = arrangement.repeat
        x = self.host.composition(arrangement)
        full, empty = self.end_energies
        return finite(energy / (self.host.formula_units * a * b * c) - x * full - (1 - x) * empty)

    def evaluate(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Evaluation]:
        """Relax those that the cache does not hold; formation energies of all, in order."""
        evaluations = []
        relaxations = self._relax(arrangements, cell)
        for arrangement, relaxation in zip(arrangements, relaxations, strict=True):
            good = relaxation.status != "diverged" and isfinite(relaxation.energy)
            evaluations.append(
                Evaluation(
                    energy=relaxation.energy if good else None,
                    formation=self._formation(arrangement, relaxation.energy) if good else None,
                    fmax=finite(relaxation.fmax),
                    steps=relaxation.steps,
                    status=relaxation.status,
                )
            )
        return evaluations

    def structure(self, arrangement: Arrangement, cell: CellSettings) -> Atoms:
        """The relaxed atoms, with ``oxidation_states`` where the model sees charge states."""
        return self._relax([arrangement], cell)[0].atoms
