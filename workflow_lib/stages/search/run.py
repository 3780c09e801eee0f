"""The search of one model: enumeration if asked for, genetic, random and perhaps screened search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workflow_lib.core.code import code_checksum
from workflow_lib.core.io import atomic_path, write_json
from workflow_lib.core.locks import alone
from workflow_lib.core.progress import Progress
from workflow_lib.lattice.arrangement import UNIT, Arrangement
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import seal, write_table
from workflow_lib.simulation.settings import RelaxationSettings
from workflow_lib.stages.search.evaluate import Evaluator, ModelEvaluator
from workflow_lib.stages.search.figures import search_figure, shown
from workflow_lib.stages.search.genotype import Lattice
from workflow_lib.stages.search.problem import Evaluation, Method, Problem, Record, State
from workflow_lib.stages.search.random_search import random_search
from workflow_lib.stages.search.screened_search import screened_search
from workflow_lib.stages.search.search import genetic_search
from workflow_lib.stages.search.settings import CellSettings, SearchSettings
from workflow_lib.stages.search.tables import (
    Results,
    cell_summary,
    found_table,
    history_table,
    lowest,
    milli,
)

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.models.predictor import Predictor

SEARCHES = (genetic_search.__module__, random_search.__module__)
"""Modules that decide, with all that they import, what a search asks for next."""

SCREENED = (screened_search.__module__,)
"""The same for the screened search."""


def run_search(
    *,
    model: Predictor,
    name: str,
    host: Host,
    settings: SearchSettings,
    relaxation: RelaxationSettings,
    stress_converged: bool,
    states: Sequence[str],
    seed: int,
    work: Path,
    cache: Path,
    out: Path,
) -> None:
    """Search with a potential and write what was found to ``out``; ``name`` is its id in the tables.

    ``relaxation`` sets the starting structures and, if a cell does not, when relaxations stop;
    ``stress_converged`` (of the DFT reference) decides whether cells relax if the settings leave it
    open; ``states`` are the keys of its states, which the charge-order stage relaxes.
    ``work`` keeps the state of the searches, ``cache`` the relaxations shared with the charge-order
    stage: both survive an interruption, after which the same call resumes and ends with the same
    tables. Writes ``found.csv``, ``history.csv``, ``found.extxyz``, ``summary.json``,
    ``progress.*`` and ``timings.json``. Raises UserError for a composition that the supercell does
    not have, a supercell too large to enumerate, or a damaged model, state or cache.
    """
    from workflow_lib.simulation.cache import RelaxationCache, model_identity

    settings.check(host)
    identity = model_identity(model)
    with alone(Path(cache) / f"search-{identity[:20]}", "search"):
        store = RelaxationCache(cache, identity)
        stop = relaxation.stop(stress_converged=stress_converged)
        evaluator = ModelEvaluator(model, host, store, settings, relaxation, stop, name, states)
        before = len(store)
        started = time.perf_counter()
        seconds = search_all(
            evaluator,
            host=host,
            settings=settings,
            seed=seed,
            owner=model.origin.columns(name),
            work=work,
            out=out,
        )
        write_json(
            Path(out) / "timings.json",
            {
                "seconds": time.perf_counter() - started,
                "relaxations_made": len(store) - before,
                **{f"{part}_seconds": value for part, value in seconds.items()},
            },
        )


def search_all(
    evaluator: Evaluator,
    *,
    host: Host,
    settings: SearchSettings,
    seed: int,
    owner: Mapping[str, Any],
    work: Path,
    out: Path,
) -> dict[str, float]:
    """Search in all cells with any source of energies; return the seconds by cell and method.

    ``owner``: the columns that name the source in the tables (``Origin.columns``).
    """
    work, out, name = Path(work), Path(out), str(owner["id"])
    results: Results = {}
    seconds: dict[str, float] = {}
    cells: dict[str, Any] = {}
    for cell in settings.cells:
        lattice = Lattice(host, cell.repeat, evaluator.charges, cell.occupations(host))
        problem = Problem(lattice, partial(evaluator.evaluate, cell=cell))
        methods: dict[Method, list[Record]] = {}
        if cell.enumerate:
            with _part(seconds, name, cell, "enumeration"):
                methods["enumeration"] = _enumerate(problem)
        elif cell.repeat == UNIT:
            methods["enumeration"] = _end_members(evaluator, host)
        question = {
            "cell": cell.model_dump(exclude={"enumerate"}),
            "operators": settings.operators.model_dump(),
            "seed": seed,
            "charges": evaluator.charges,
            # Which compositions are neutral: a charge-blind model from elsewhere does not know the rule.
            "redox": [host.rule.element, host.rule.low, host.rule.high, host.rule.formal_charges],
            "energies": evaluator.identity,
            "code": code_checksum(*SEARCHES),
        }
        # Stream 0 draws the random search and the first population, so that both begin alike.
        streams = [(seed, *cell.repeat, stream) for stream in (0, 1)]
        with _part(seconds, name, cell, "ga") as progress:
            methods["ga"] = genetic_search(
                problem,
                State(work, f"{cell.name}-ga", question, streams[1]),
                start=np.random.default_rng(streams[0]),
                budget=cell.budget,
                population=cell.population,
                offspring=cell.offspring,
                weights=settings.operators,
                progress=progress,
            )
        with _part(seconds, name, cell, "random") as progress:
            methods["random"] = random_search(
                problem,
                State(work, f"{cell.name}-random", question, streams[0]),
                budget=cell.budget,
                first=cell.population,
                batch=cell.offspring,
                progress=progress,
            )
        if settings.screening is not None:
            own = question | {"screening": settings.screening, "code": code_checksum(*SCREENED)}
            with _part(seconds, name, cell, "screened") as progress:
                methods["screened"] = screened_search(
                    problem,
                    State(work, f"{cell.name}-screened", own, (seed, *cell.repeat, 2)),
                    start=np.random.default_rng(streams[0]),
                    end_members=evaluator.end_members(),
                    budget=cell.budget,
                    population=cell.population,
                    offspring=cell.offspring,
                    weights=settings.operators,
                    progress=progress,
                )
        results[cell.name] = methods
        cells[cell.name] = cell_summary(cell, lattice.n_mobile, problem.distinct, methods)
    if all(cell.repeat != UNIT for cell in settings.cells):
        results["1x1x1"] = {"enumeration": _end_members(evaluator, host)}
    arranged = "mobile ions and charge states" if evaluator.charges else "mobile ions only"
    found = found_table(owner, host, results, evaluator.level)
    history = history_table(host, results)
    write_table("search/found", found, out)
    write_table("search/history", history, out, owner=owner)
    _write_structures(evaluator, host, settings, results, out / "found.extxyz")
    write_json(
        out / "summary.json",
        {
            **owner,
            "charge_labelled": evaluator.charges,
            "arranged": arranged,
            "status": "ok" if found["formation_mev_fu"].notna().any() else "diverged",
            "relaxations": sum(cell["relaxations"] for cell in cells.values()),
            "relaxations_beyond_charge_orders": len(
                _relaxations(evaluator, host, settings, results) - evaluator.charge_orders
            ),
            "shown": {
                "cell": settings.largest.name,
                "n_occupied": shown(settings.largest, host, settings.shown_x),
            },
            "cells": cells,
        },
    )
    search_figure(found, history, host, settings, f"{name}: arranges {arranged}", out / "progress")
    seal(out, "search", source=out.name)
    return seconds


def _relaxations(evaluator: Evaluator, host: Host, settings: SearchSettings, results: Results) -> set[str]:
    """Return the names of all relaxations of the searches, those of the end members among them."""
    empty, full = host.end_members(charges=evaluator.charges)
    return {evaluator.relaxation(host.key(member), None) for member in (*empty, *full)} | {
        evaluator.relaxation(record.key, _relaxed_in(record, cell))
        for cell in settings.cells
        for record in chain.from_iterable(results[cell.name].values())
    }


def _enumerate(problem: Problem) -> list[Record]:
    """Relax every distinct arrangement of the supercell, end members too, and return them in order."""
    lattice = problem.lattice
    arrangements = list(
        chain.from_iterable(
            lattice.host.enumerate(lattice.repeat, n, charges=lattice.charges)
            for n in lattice.host.compositions(lattice.repeat)
        )
    )
    return _records(lattice.host, arrangements, problem.evaluate(arrangements))


def _relaxed_in(record: Record, cell: CellSettings) -> CellSettings | None:
    """Return the cell whose settings ended a relaxation; None for one of :func:`_end_members`."""
    return None if record.operator == "enumeration" and not cell.enumerate else cell


def _end_members(evaluator: Evaluator, host: Host) -> list[Record]:
    members = evaluator.end_members()
    return _records(host, [member for member, _ in members], [evaluation for _, evaluation in members])


def _records(
    host: Host, arrangements: Sequence[Arrangement], evaluations: Sequence[Evaluation]
) -> list[Record]:
    pairs = zip(arrangements, evaluations, strict=True)
    return [
        Record(order, 0, "enumeration", host.key(arrangement), arrangement, evaluation)
        for order, (arrangement, evaluation) in enumerate(pairs, start=1)
    ]


def _write_structures(
    evaluator: Evaluator, host: Host, settings: SearchSettings, results: Results, path: Path
) -> None:
    """Write the relaxed lowest arrangement of each cell and composition over all methods."""
    from ase.io import write

    images: list[Atoms] = []
    for cell in settings.cells:
        methods = results[cell.name]
        for record in lowest(chain.from_iterable(methods.values())).values():
            atoms = evaluator.structure(record.arrangement, _relaxed_in(record, cell)).copy()
            # Not "energy", which ASE would take for a calculator's.
            atoms.info = {
                "state_key": record.key,
                "cell": cell.name,
                "x": host.composition(record.arrangement),
                "model_energy_ev": record.evaluation.energy,
                "formation_mev_fu": milli(record.evaluation.formation),
                "fmax_ev_a": record.evaluation.fmax,
                "status": record.evaluation.status,
            }
            images.append(atoms)
    with atomic_path(path) as temporary:
        if images:
            write(temporary, images, format="extxyz")


@contextmanager
def _part(
    seconds: dict[str, float], model: str, cell: CellSettings, method: Method
) -> Iterator[Callable[[list[Record]], object]]:
    """Time a method; yield the function that shows its progress."""
    started = time.perf_counter()
    if method == "enumeration":  # one call, whose relaxations report their own progress
        yield lambda _: None
    else:
        bar: Progress | None = None

        def show(records: list[Record]) -> None:
            nonlocal bar
            if bar is None:  # the first call counts what an earlier process has done
                title = f"{model} {cell.name} {method}"
                bar = Progress(title, cell.budget, "relaxation", done=len(records))
            bar.show(len(records), _best(records))

        yield show
        if bar is not None:
            bar.close()
    seconds[f"{cell.name}_{method}"] = time.perf_counter() - started


def _best(records: list[Record]) -> str:
    """Say where a search stands: its generation and its lowest formation energy over all compositions."""
    if not records:
        return ""
    ions, record = min(
        lowest(records).items(), key=lambda item: item[1].evaluation.formation or 0.0, default=(0, None)
    )
    generation = f"generation {records[-1].generation}"
    if record is None:
        return f"{generation}, no relaxation has an energy"
    return f"{generation}, lowest {milli(record.evaluation.formation):.1f} meV/f.u. with {ions} mobile ions"
