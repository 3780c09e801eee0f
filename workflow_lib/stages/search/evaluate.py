"""Energies of arrangements: relaxed by a model, relative to its own end members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from workflow_lib.lattice.arrangement import Arrangement, StateKey
from workflow_lib.lattice.formation import end_energies, formation_energy
from workflow_lib.lattice.host import Host
from workflow_lib.models.outside_settings import UNSTATED
from workflow_lib.results_schema import MOVED, WITHOUT_ENERGY
from workflow_lib.simulation.cache import (
    RelaxationCache,
    host_identity,
    model_identity,
    moved,
    relax_arrangements,
    relaxation_key,
)
from workflow_lib.simulation.settings import RelaxationSettings, Stop
from workflow_lib.stages.search.problem import Evaluation, finite
from workflow_lib.stages.search.settings import CellSettings, SearchSettings

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.relaxation import Relaxation


class Evaluator(Protocol):
    """A source of energies for the searches."""

    @property
    def charges(self) -> bool:
        """Whether charge states are part of an arrangement."""

    @property
    def level(self) -> str:
        """Level of theory of the energies."""

    @property
    def identity(self) -> str:
        """What decides the energies; an interrupted search resumes only if this is unchanged."""

    @property
    def charge_orders(self) -> frozenset[str]:
        """Names of the relaxations that the charge-order stage makes, whoever is first."""

    def relaxation(self, key: str, cell: CellSettings | None) -> str:
        """Return the name of an arrangement's relaxation; ``cell`` None: as an end member."""

    def evaluate(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Evaluation]:
        """Return the relaxed energies of arrangements, in their order."""

    def end_members(self) -> list[tuple[Arrangement, Evaluation]]:
        """Return the empty and the full end member in the host's own cell."""

    def structure(self, arrangement: Arrangement, cell: CellSettings | None) -> Atoms:
        """Return the relaxed atoms of an arrangement that was evaluated; ``cell`` as in ``relaxation``."""


class ModelEvaluator:
    """Relaxes with a potential from Vegard cells and keeps the results in the shared cache.

    Relaxations start from the same structures as in the charge-order stage: distorted around the
    redox sites for a charge-labelled model, undistorted for a charge-blind one. Formation energies
    are in eV per formula unit relative to the end members, which the same model relaxes in the
    host's own cell, to the smallest ``fmax`` and with the largest number of steps of all cells. If
    an end member diverges, there is no formation energy. A structure that ended as another arrangement than
    the one asked for (``moved``) has none either. ``name`` identifies the model in messages
    about long relaxations; ``states`` are the keys of the states that the charge-order stage relaxes.
    """

    def __init__(
        self,
        model: Predictor,
        host: Host,
        cache: RelaxationCache,
        settings: SearchSettings,
        relaxation: RelaxationSettings,
        stop: Stop,
        name: str = "model",
        states: Iterable[str] = (),
    ) -> None:
        self.model, self.host, self.cache, self.name = model, host, cache, name
        self.stop, self.batch_size = stop, relaxation.batch_size
        self.charges = model.charge_labelled
        self.level = model.level or UNSTATED
        self.polaron_distortion = relaxation.polaron_distortion if self.charges else 0.0
        stops = [self._stop(cell) for cell in settings.cells]
        self._end_stop = replace(
            stop, fmax=min(item.fmax for item in stops), max_steps=max(item.max_steps for item in stops)
        )
        asked = states if self.charges else {StateKey.parse(key).ion_key for key in states}
        self.charge_orders = frozenset(self._name(key, stop) for key in asked)

    def _stop(self, cell: CellSettings | None) -> Stop:
        """Return when the relaxations in a cell end; None: those of the end members."""
        if cell is None:
            return self._end_stop
        fmax = self.stop.fmax if cell.fmax is None else cell.fmax
        steps = self.stop.max_steps if cell.max_steps is None else cell.max_steps
        return replace(self.stop, fmax=fmax, max_steps=steps)

    def _name(self, key: str, stop: Stop) -> str:
        return relaxation_key(self.host, key, polaron_distortion=self.polaron_distortion, stop=stop)

    def relaxation(self, key: str, cell: CellSettings | None) -> str:
        """Return the name of an arrangement's relaxation in the cache; ``cell`` None: as an end member."""
        return self._name(key, self._stop(cell))

    @property
    def identity(self) -> str:
        """Model, host, starting structures and the settings that cells take from the charge-order stage."""
        parts = (f"{self.polaron_distortion:.6g}", str(self._end_stop), str(self.stop))
        return "|".join((model_identity(self.model), host_identity(self.host), *parts))

    def _relax(self, arrangements: Sequence[Arrangement], stop: Stop) -> list[Relaxation]:
        if self.model.origin.status != "ok":  # its numbers mean nothing
            from workflow_lib.simulation.relaxation import Relaxation

            lost = float("nan")
            return [
                Relaxation(self.host.build(item), lost, lost, 0, "diverged", reason="the training diverged")
                for item in arrangements
            ]
        return relax_arrangements(
            self.model,
            self.host,
            arrangements,
            polaron_distortion=self.polaron_distortion,
            stop=stop,
            batch_size=self.batch_size,
            cache=self.cache,
            progress=f"{self.name} relaxing",
        )

    @cached_property
    def _ends(self) -> list[tuple[Arrangement, Relaxation]]:
        """Both end members, relaxed; an end member of mixed valence in all its charge orders."""
        empty, full = self.host.end_members(charges=self.charges)
        members = [*empty, *full]
        return list(zip(members, self._relax(members, self._end_stop), strict=True))

    @cached_property
    def end_energies(self) -> tuple[float, float]:
        """Energies of the empty and the full end member in eV per formula unit; NaN if they have none."""
        energies = [
            float("nan")
            if self._status(*end) in WITHOUT_ENERGY
            else end[1].energy / self.host.formula_units
            for end in self._ends
        ]
        return end_energies(energies, [self.host.composition(member) for member, _ in self._ends])

    def _status(self, arrangement: Arrangement, relaxation: Relaxation) -> str:
        return MOVED if moved(self.host, arrangement, relaxation) else relaxation.status

    def _evaluation(self, arrangement: Arrangement, relaxation: Relaxation) -> Evaluation:
        status = self._status(arrangement, relaxation)
        good = status not in WITHOUT_ENERGY and isfinite(relaxation.energy)
        formation = None
        if good:
            per_unit = relaxation.energy / (self.host.formula_units * arrangement.cells)
            x = self.host.composition(arrangement)
            formation = finite(float(formation_energy(per_unit, x, *self.end_energies)))
        return Evaluation(
            energy=relaxation.energy if good else None,
            formation=formation,
            fmax=finite(relaxation.fmax),
            steps=relaxation.steps,
            volume=finite(float(relaxation.atoms.get_volume())) if good else None,
            status=status,
        )

    def evaluate(self, arrangements: Sequence[Arrangement], cell: CellSettings) -> list[Evaluation]:
        """Relax the arrangements that the cache lacks; return the formation energies of all, in order."""
        relaxations = self._relax(arrangements, self._stop(cell))
        return list(map(self._evaluation, arrangements, relaxations))

    def end_members(self) -> list[tuple[Arrangement, Evaluation]]:
        """Return the empty and the full end member, relaxed."""
        return [(member, self._evaluation(member, relaxed)) for member, relaxed in self._ends]

    def structure(self, arrangement: Arrangement, cell: CellSettings | None) -> Atoms:
        """Return the relaxed atoms, with ``oxidation_states`` if the model sees charge states."""
        return self._relax([arrangement], self._stop(cell))[0].atoms
