"""Energies of arrangements to fit the expansions to: from DFT's table, or relaxed by a potential.

What an arrangement counts as is decided by rule. A charge-labelled model carries its charge states.
Of a charge-blind model that predicts moments, a structure counts as the arrangement that these moments
show, not as the one that was asked for; if they show none, or none that is neutral, it counts for its
ions only. A charge-blind model without moments has ions only. Ions may have moved to other sites: then a
structure counts as what it became. A relaxation that diverged, or whose ions left their sites, does not
count, nor does one that ran out of steps, if the configuration says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.lattice import formation
from workflow_lib.lattice.arrangement import UNIT, Arrangement
from workflow_lib.lattice.counting import count_distinct
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import read_table
from workflow_lib.results_schema import CONVERGED, DFT, DIVERGED
from workflow_lib.simulation.settings import RelaxationSettings, Stop
from workflow_lib.stages.phase_diagram.settings import Repeat, StructureSettings

if TYPE_CHECKING:
    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.relaxation import Relaxation

Order = Literal["carried", "kept", "changed", "ambiguous", "none", "off-site", "unconverged", "diverged"]
"""How the charge states of a structure are known: carried as labels; kept or changed as the moments
show (changed too where an ion moved); ambiguous where the moments show none; none asked for. The last
three do not count at all."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An arrangement that was asked for, what it became, and its energy (eV a supercell).

    ``became`` is None where the structure does not count; without charge states it counts for its ions.
    """

    asked: Arrangement
    became: Arrangement | None
    order: Order
    energy: float
    status: str
    fmax: float


class Source(Protocol):
    """What gives energies of any arrangement."""

    name: str
    level: str
    charges: bool
    """Whether its arrangements have charge states."""

    def answers(self, arrangements: Sequence[Arrangement]) -> list[Answer]:
        """Return the answers to arrangements, in order."""


class DftSource:
    """The states of the charge-order reference: a fixed set, of the host's own cell."""

    name, charges = DFT, True

    def __init__(self, reference_dir: Path, host: Host, *, accept_unconverged: bool) -> None:
        table = read_table("charge_order/reference", reference_dir)
        if not accept_unconverged:
            table = table[table["status"] == CONVERGED]
        if table.empty:
            raise UserError(
                f"{reference_dir} has no state that DFT has converged, and so no energies for the phase "
                "diagram of DFT; relax some further, or set thermodynamics.accept_unconverged: true"
            )
        self.level = str(table["level"].iloc[0])
        self.all: list[Answer] = []
        columns = [table[name].tolist() for name in ("state_key", "energy_ev", "status", "fmax_ev_a")]
        for key, energy, status, fmax in zip(*columns, strict=True):
            arrangement = host.parse(key)
            self.all.append(Answer(arrangement, arrangement, "carried", energy, status, fmax))


class ModelSource:
    """A potential that relaxes, through the store of relaxations that the other stages share."""

    def __init__(
        self,
        potential: Predictor,
        host: Host,
        *,
        relaxation: RelaxationSettings,
        stop: Stop,
        cache: Path,
        accept_unconverged: bool,
    ) -> None:
        from workflow_lib.simulation.cache import RelaxationCache, model_identity

        self.potential, self.host = potential, host
        self.name, self.level = potential.name, potential.level or "unknown"
        self.moments = not potential.charge_labelled and "magmoms" in potential.predicts
        self.charges = potential.charge_labelled or self.moments
        self.distortion = relaxation.polaron_distortion if self.charges else 0.0
        self.stop, self.batch_size = stop, relaxation.batch_size
        self.accept_unconverged = accept_unconverged
        self.store = RelaxationCache(cache, model_identity(potential))
        self._check_elements()
        self._check_windows()

    def _check_elements(self) -> None:
        known = self.potential.elements
        if known is not None and (missing := set(self.host.numbers.tolist()) - set(known)):
            from workflow_lib.core.elements import SYMBOLS

            names = ", ".join(SYMBOLS[z] for z in sorted(missing))
            raise UserError(f"{self.name} does not know {names} of {self.host.name}; choose another")

    def _check_windows(self) -> None:
        states = self.host.rule.states
        if self.moments and (without := [s.oxidation for s in states if self.level not in s.magmom]):
            lacking = " and ".join(f"{self.host.redox}{oxidation}+" for oxidation in without)
            raise UserError(
                f"{self.name} predicts moments at the level {self.level!r}, for which redox.states has no "
                f"magmom window of {lacking}; add one, else nothing says which charge states they show"
            )

    def answers(self, arrangements: Sequence[Arrangement]) -> list[Answer]:
        """Relax arrangements and read what they became."""
        from workflow_lib.simulation.cache import relax_arrangements

        relaxed = relax_arrangements(
            self.potential,
            self.host,
            arrangements,
            polaron_distortion=self.distortion,
            stop=self.stop,
            batch_size=self.batch_size,
            cache=self.store,
            progress=f"{self.name} relaxes",
        )
        moments: list[np.ndarray | None] = [None] * len(relaxed)
        if self.moments:
            good = [i for i, item in enumerate(relaxed) if item.status != DIVERGED]
            predicted = self.potential.predict([relaxed[i].atoms for i in good], batch_size=self.batch_size)
            for i, prediction in zip(good, predicted, strict=True):
                moments[i] = prediction.magmoms
        return [self._read(*item) for item in zip(arrangements, relaxed, moments, strict=True)]

    def _read(self, asked: Arrangement, relaxed: Relaxation, moments: np.ndarray | None) -> Answer:
        became, order = self._became(asked, relaxed, moments)
        return Answer(asked, became, order, relaxed.energy, relaxed.status, relaxed.fmax)

    def _became(
        self, asked: Arrangement, relaxed: Relaxation, moments: np.ndarray | None
    ) -> tuple[Arrangement | None, Order]:
        if relaxed.status == DIVERGED:
            return None, "diverged"
        if relaxed.status != CONVERGED and not self.accept_unconverged:
            return None, "unconverged"
        try:
            ions = self.host.locate(relaxed.atoms, None)
        except UserError:
            return None, "off-site"
        if not self.charges:
            return ions, "none"
        labelled = self.potential.charge_labelled
        if labelled:
            states, reason = relaxed.atoms.get_array("oxidation_states"), None
        else:
            states, reason = self.host.rule.assign(relaxed.atoms.numbers, moments, self.level)
        if states is None or reason is not None:
            return ions, "ambiguous"
        found = self.host.locate(relaxed.atoms, states)
        same = self.host.key(found) == self.host.key(asked)
        return found, ("carried" if labelled else "kept") if same else "changed"


def arranged(host: Host, repeat: Repeat, *, charges: bool) -> list[int]:
    """Return the numbers of ions of a supercell that leave a choice: of the ions' sites, or of the charges.

    An end member has none in its ions, but several charge orders if it is of mixed valence.
    """
    inner, redox = range(1, host.n_mobile(repeat)), host.n_redox(repeat)
    return [
        n
        for n in host.compositions(repeat, charges=charges)
        if n in inner or (charges and 0 < host.n_reduced(repeat, n) < redox)
    ]


def first_arrangements(
    host: Host, settings: StructureSettings, *, charges: bool, rng: np.random.Generator
) -> list[Arrangement]:
    """Return the arrangements that are asked for before any expansion exists, all distinct.

    Cells with few arrangements are enumerated; of others each composition is drawn from. Raises
    UserError where an end member has no neutral assignment.
    """
    empty, full = host.end_members(charges=charges)
    found = {host.key(arrangement): arrangement for arrangement in (*empty, *full)}
    for repeat in settings.cells:
        numbers = arranged(host, repeat, charges=charges)
        counts = {n: count_distinct(host, repeat, n, charges=charges) for n in numbers}
        for n in numbers:
            if sum(counts.values()) <= settings.enumerate_up_to:
                drawn = host.enumerate(repeat, n, charges=charges)
            else:
                drawn = _some(host, repeat, n, min(settings.per_composition, counts[n]), charges, rng)
            found |= {host.key(arrangement): arrangement for arrangement in drawn}
    return list(found.values())


def _some(
    host: Host, repeat: Repeat, ions: int, count: int, charges: bool, rng: np.random.Generator
) -> list[Arrangement]:
    """Draw ``count`` distinct arrangements of a composition, in canonical form."""
    drawn: dict[str, Arrangement] = {}
    while len(drawn) < count:
        arrangement = host.canonical(host.random(repeat, ions, charges=charges, rng=rng))
        drawn.setdefault(host.key(arrangement), arrangement)
    return list(drawn.values())


def training_set(
    answers: Sequence[Answer], host: Host, *, charges: bool
) -> tuple[list[Arrangement], np.ndarray]:
    """Return the distinct arrangements that count and the lowest energy (eV a supercell) of each.

    Without ``charges`` all charge orders on the same ions are one arrangement: its lowest energy is
    what the ions have once the charges have relaxed.
    """
    lowest: dict[str, tuple[float, Arrangement]] = {}
    for answer in answers:
        became = answer.became
        if became is None or (charges and became.reduced is None):
            continue
        counted = host.canonical(became if charges else became.without_charges())
        key = host.key(counted)
        if key not in lowest or answer.energy < lowest[key][0]:
            lowest[key] = answer.energy, counted
    pairs = list(lowest.values())
    return [arrangement for _, arrangement in pairs], np.array([energy for energy, _ in pairs])


def end_energies(answers: Sequence[Answer], host: Host) -> tuple[float, float]:
    """Return the lowest energies of the empty and the full host, eV a mobile site; nan where missing."""
    counted = [(answer.energy, answer.became) for answer in answers if answer.became is not None]
    return formation.end_energies(
        [energy / (became.cells * host.n_mobile(UNIT)) for energy, became in counted],
        [host.composition(became) for _, became in counted],
    )


def unconverged(answers: Sequence[Answer]) -> int:
    """Return the number of structures that count though their relaxation ran out of steps."""
    return sum(answer.became is not None and answer.status != CONVERGED for answer in answers)
