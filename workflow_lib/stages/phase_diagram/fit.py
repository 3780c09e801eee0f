"""Fit both expansions of a system, and relax what they predict to be lowest until nothing is new."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workflow_lib.core.errors import UserError
from workflow_lib.core.progress import say
from workflow_lib.lattice.annealing import anneal
from workflow_lib.lattice.arrangement import UNIT, Arrangement
from workflow_lib.lattice.cluster_expansion import Expansion, fit_expansion
from workflow_lib.lattice.cluster_space import Space
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.reservoir import neutral_exchange
from workflow_lib.stages.phase_diagram.settings import (
    DECORATED,
    PLAIN,
    Cutoffs,
    StructureSettings,
    SystemSettings,
)
from workflow_lib.stages.phase_diagram.structures import (
    Answer,
    DftSource,
    Source,
    arranged,
    first_arrangements,
    training_set,
)

TIE = 1e-5
"""eV a host cell; a predicted ground state must lie farther below what is known than this to be new."""
SAME = 1e-9
"""meV per formula unit; energies of arrangements nearer than this tie."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """Expansions by name with the data they were fitted to, all answers, and the round of each answer."""

    expansions: dict[str, Expansion]
    data: dict[str, tuple[list[Arrangement], np.ndarray]]
    answers: list[Answer]
    rounds: list[int]
    converged: bool | None
    """Whether the last round predicted nothing below what is known; None where nothing was searched."""
    refused: int = 0
    """Arrangements that it predicted to be lower though they had been relaxed, to something else."""


def fit_system(
    source: DftSource | Source,
    host: Host,
    system: SystemSettings,
    settings: StructureSettings,
    rng: np.random.Generator,
) -> Fitted:
    """Gather energies and fit.

    Raises UserError where the data cannot carry an expansion, or Monte Carlo could not sample it.
    """
    neutral_exchange(host, charges=source.charges)  # refuses anions
    spaces = _spaces(source, host, system)
    if isinstance(source, DftSource):
        answers = list(source.all)
        return Fitted(*_fit(spaces, answers, host, system.name), answers, [0] * len(answers), None)
    answers = source.answers(first_arrangements(host, settings, charges=source.charges, rng=rng))
    rounds = [0] * len(answers)
    expansions, data = _fit(spaces, answers, host, system.name)
    converged, refused = (False if settings.rounds else None), 0
    for number in range(1, settings.rounds + 1):
        asked = {host.key(answer.asked) for answer in answers}
        found = {host.key(a): a for a in predicted_lower(expansions, data, host, settings, rng)}
        new = [arrangement for key, arrangement in found.items() if key not in asked]
        refused = len(found) - len(new)
        if not new:
            converged = not refused
            break
        say(f"{system.name}: round {number} relaxes {len(new)} arrangements that are predicted to be lower")
        more = source.answers(new)
        answers += more
        rounds += [number] * len(more)
        expansions, data = _fit(spaces, answers, host, system.name)
    return Fitted(expansions, data, answers, rounds, converged, refused)


def _spaces(source: DftSource | Source, host: Host, system: SystemSettings) -> dict[str, Space]:
    cutoffs: dict[str, Cutoffs] = {PLAIN: system.plain}
    if source.charges:
        cutoffs = {DECORATED: system.decorated, PLAIN: system.plain}
    return {
        name: Space.within(host, pairs=own.pairs, triplets=own.triplets, charges=name == DECORATED)
        for name, own in cutoffs.items()
    }


def _fit(
    spaces: dict[str, Space], answers: Sequence[Answer], host: Host, where: str
) -> tuple[dict[str, Expansion], dict[str, tuple[list[Arrangement], np.ndarray]]]:
    data = {name: training_set(answers, host, charges=space.charges) for name, space in spaces.items()}
    for name, (arrangements, _) in data.items():
        if not arrangements:
            counts = Counter(answer.order for answer in answers)
            why = ", ".join(f"{number} {order}" for order, number in counts.items())
            raise UserError(f"{where}, {name}: no structure counts ({why}); use another potential")
    expansions = {
        name: fit_expansion(space, *data[name], where=f"{where}, {name}") for name, space in spaces.items()
    }
    return expansions, data


def predicted_lower(
    expansions: dict[str, Expansion],
    data: dict[str, tuple[list[Arrangement], np.ndarray]],
    host: Host,
    settings: StructureSettings,
    rng: np.random.Generator,
) -> list[Arrangement]:
    """Return arrangements, in canonical form, that the expansions put below what is known.

    These are the ground states of each composition and cell. With charge states they are also the lowest
    charge order on each arrangement of ions that is known or a ground state of the ions alone: the energy
    of the ions alone is that with the charges relaxed, and one order drawn at random lies above it.
    """
    lower = {
        name: below_known(
            own,
            data[name][0],
            ground_states(own, host, settings, rng, neutral=DECORATED in expansions),
            host,
        )
        for name, own in expansions.items()
    }
    if DECORATED not in expansions:
        return lower[PLAIN]
    ions = [*data[PLAIN][0], *lower[PLAIN]]
    return lower[DECORATED] + lower_charges(expansions[DECORATED], data[DECORATED][0], ions, host, rng)


def lower_charges(
    expansion: Expansion,
    known: Sequence[Arrangement],
    ions: Sequence[Arrangement],
    host: Host,
    rng: np.random.Generator,
) -> list[Arrangement]:
    """Return for arrangements of ions the charge orders that lie below all known ones on the same ions.

    Found by cooling the charges on the expansion with the ions frozen; in canonical form.
    """
    lowest: dict[str, float] = {}
    for arrangement, energy in zip(known, _per_cell(expansion, known), strict=True):
        key = host.key(host.canonical(arrangement.without_charges()))
        lowest[key] = min(energy, lowest.get(key, np.inf))
    energies = {repeat: expansion.multilinear(repeat) for repeat in {a.repeat for a in ions}}
    found = [
        host.canonical(
            anneal(expansion.space, energies[a.repeat], host.random_charges(a, rng), rng, "ions")[-1]
        )
        for a in ions
    ]
    return [
        charged
        for own, charged, energy in zip(ions, found, _per_cell(expansion, found), strict=True)
        if energy < lowest.get(host.key(host.canonical(own)), np.inf) - TIE
    ]


def below_known(
    expansion: Expansion, known: Sequence[Arrangement], found: Sequence[Arrangement], host: Host
) -> list[Arrangement]:
    """Return those of ``found`` that the expansion puts below all known ones of their composition."""
    lowest: dict[float, float] = {}
    for arrangement, energy in zip(known, _per_cell(expansion, known), strict=True):
        x = round(host.composition(arrangement), 9)
        lowest[x] = min(energy, lowest.get(x, np.inf))
    return [
        arrangement
        for arrangement, energy in zip(found, _per_cell(expansion, found), strict=True)
        if energy < lowest.get(round(host.composition(arrangement), 9), np.inf) - TIE
    ]


def _per_cell(expansion: Expansion, arrangements: Sequence[Arrangement]) -> list[float]:
    if not arrangements:
        return []
    cells = np.array([arrangement.cells for arrangement in arrangements])
    return (expansion.energies(arrangements) / cells).tolist()


def ground_states(
    expansion: Expansion,
    host: Host,
    settings: StructureSettings,
    rng: np.random.Generator,
    *,
    neutral: bool,
) -> list[Arrangement]:
    """Return the lowest arrangement of each composition and cell that cooling finds, in canonical form.

    ``neutral``: of those compositions alone that some charge order makes neutral. A source of energies that
    knows charge states has no others, though an expansion of the ions alone could be asked for them.
    """
    found: dict[str, Arrangement] = {}
    charges = expansion.charges
    for repeat in settings.cells:
        energy = expansion.multilinear(repeat)
        known = host.compositions(repeat, charges=neutral)
        for ions in (n for n in arranged(host, repeat, charges=charges) if n in known):
            start = host.random(repeat, ions, charges=charges, rng=rng)
            lowest = host.canonical(anneal(expansion.space, energy, start, rng)[-1])
            found[host.key(lowest)] = lowest
    return list(found.values())


def fit_row(name: str, fitted: Fitted, host: Host) -> dict[str, object]:
    """Return one row of ``phase_diagram/fit``: what an expansion is worth, in meV per formula unit."""
    expansion, (arrangements, energies) = fitted.expansions[name], fitted.data[name]
    fit = expansion.fit
    assert fit is not None
    x, formation = formation_of(arrangements, energies, host)
    # The fit's energies are those of a host cell, against the same end members.
    scale = 1000 / host.formula_units
    held = fit.held_out * scale
    seen = np.isfinite(held)
    # Of too few groups none was held out.
    error = float(np.sqrt(np.mean((held[seen] - formation[seen]) ** 2))) if seen.any() else np.nan
    score = order_scores(x[seen], formation[seen], held[seen])
    return {
        "expansion": name,
        "structures": len(arrangements),
        "orbits": len(expansion.space.subspace.orbits) + len(expansion.space.subspace.external_terms),
        "functions": fit.counting,
        "rmse_mev_fu": scale * fit.rmse,
        "cross_validation_mev_fu": scale * fit.cross_validation,
        "held_out_rmse_mev_fu": error,
        "held_out_rmse_mev_site": error * host.formula_units / expansion.space.n_sites(UNIT),
        "dielectric": expansion.dielectric,
        **score,
    }


def formation_of(
    arrangements: Sequence[Arrangement], energies: np.ndarray, host: Host
) -> tuple[np.ndarray, np.ndarray]:
    """Return x [n] and formation energies [n] in meV per formula unit, against the lowest end members."""
    from workflow_lib.lattice.formation import formation_mev_fu

    x = np.array([host.composition(a) for a in arrangements])
    units = np.array([a.cells * host.formula_units for a in arrangements])
    return x, formation_mev_fu(energies, units, x)


def order_scores(x: np.ndarray, known: np.ndarray, predicted: np.ndarray) -> dict[str, object]:
    """Return how well predictions order energies [n] of equal composition.

    ``pairs_ordered``: share of the pairs whose order is right; ``ground_states``: compositions with
    more than one arrangement, ``ground_states_found``: those whose lowest is predicted lowest. None
    where there is no pair.
    """
    right, pairs, found, compositions = 0, 0, 0, 0
    for value in np.unique(x.round(9)):
        own = np.flatnonzero(np.isclose(x, value))
        if len(own) < 2:
            continue
        compositions += 1
        found += int(known[own[predicted[own].argmin()]] <= known[own].min() + SAME)
        gap, guess = known[own][:, None] - known[own], predicted[own][:, None] - predicted[own]
        upper = np.triu(np.abs(gap) > SAME, 1)
        pairs += int(upper.sum())
        right += int((upper & (gap * guess > 0)).sum())
    return {
        "pairs_ordered": right / pairs if pairs else None,
        "ground_states": compositions,
        "ground_states_found": found if compositions else None,
    }
