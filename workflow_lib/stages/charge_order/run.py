"""The charge-order stage of one model: three protocols, scores, structures, figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import atomic_path, write_json
from workflow_lib.core.locks import alone
from workflow_lib.frames.splits import Splits
from workflow_lib.lattice.redox import LABELS
from workflow_lib.models.outside_settings import UNSTATED
from workflow_lib.models.predictor import Predictor
from workflow_lib.results_reading import read_reference, seal, stress_converged, write_table
from workflow_lib.results_schema import CONVERGED, DIVERGED, HEADLINE, PROTOCOLS, WITHOUT_ENERGY, Protocol
from workflow_lib.simulation.cache import RelaxationCache, model_identity
from workflow_lib.simulation.settings import Stop
from workflow_lib.stages.charge_order.figures import states_figure
from workflow_lib.stages.charge_order.protocols import (
    SINGLE_POINT,
    arrangement_of,
    orders_shown,
    protocol_table,
    relaxed_states,
    single_points,
    state_roles,
)
from workflow_lib.stages.charge_order.score import Scores, score_states
from workflow_lib.stages.charge_order.settings import ChargeOrderSettings

if TYPE_CHECKING:
    from ase import Atoms

    from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host

SCORES, RELAXED_STRUCTURES = "scores.json", "structures.extxyz"
TIMINGS = "timings.json"
"""Seconds of each protocol; short if the cache held its relaxations."""
Answers = tuple[pd.DataFrame, "list[Atoms]"]


def run_charge_order(
    *,
    model: Predictor,
    reference_dir: str | Path,
    host: Host,
    splits_path: str | Path,
    settings: ChargeOrderSettings,
    out: str | Path,
    cache: str | Path,
) -> Scores:
    """Evaluate a potential on the reference states and write states, scores, structures and figure.

    Files: ``states.csv``, ``scores.json``, ``structures.extxyz``, ``timings.json`` and
    ``states.{svg,png}``. ``out`` is the folder of the results and named by the model's id.
    ``cache`` is the folder of the relaxations this model has done (shared with the search stage,
    not a result). A model whose training diverged is not run: all its states are reported as
    diverged. Raises UserError if a trained model and the reference have different levels of theory; a
    potential from elsewhere has another one, and only differences within it are compared.
    """
    out = Path(out)
    origin = model.origin
    reference, structures = read_reference(reference_dir)
    _check_level(model, reference)
    arrangements = [arrangement_of(host, atoms) for atoms in structures]
    roles = state_roles(Splits.load(splits_path), origin.fold, reference, host)
    alive = origin.status != DIVERGED
    identity, owner = model_identity(model), origin.columns(out.name)
    with alone(Path(cache) / f"charge_order-{identity[:20]}", "charge_order"):
        store = RelaxationCache(cache, identity)
        stop = settings.stop(stress_converged=stress_converged(reference))
        timings: dict[str, float] = {}
        tables: list[pd.DataFrame] = []
        answered: dict[Protocol, list[Atoms]] = {}
        for protocol in PROTOCOLS:
            started = perf_counter()
            if alive:
                answers, ends = _sit(
                    protocol, model, host, arrangements, structures, settings, stop, store, out.name
                )
            else:
                answers, ends = _no_answers(structures)
            orders = _orders(model, host, answers, ends, settings.batch_size)
            answered[protocol] = ends
            timings[f"{protocol.replace('-', '_')}_seconds"] = round(perf_counter() - started, 3)
            tables.append(
                protocol_table(
                    owner,
                    protocol,
                    answers,
                    ends,
                    reference=reference,
                    roles=roles,
                    host=host,
                    orders=orders,
                    level=model.level or UNSTATED,
                )
            )
        states = pd.concat(tables, ignore_index=True)
        scores: Scores = owner | {
            "init": origin.init,
            "model_status": origin.status,
            "level": model.level or UNSTATED,
            "charge_labelled": model.charge_labelled,
            "settings": settings.model_dump(),
            "cells": stop.cells,
            "relaxations": _relaxations(reference, model) if alive else 0,
            "dft_relaxed": int((reference["status"] == CONVERGED).sum()),
            "dft_states": len(reference),
        }
        scores |= score_states(states, settings.compared_x, HEADLINE)
        write_table("charge_order/states", states, out)
        _write_structures(states, answered, model, out / RELAXED_STRUCTURES)
        states_figure(states, out, title=out.name, cells=stop.cells)
        write_json(out / TIMINGS, timings)
        write_json(out / SCORES, scores)
        seal(out, "charge-order", source=out.name)
        return scores


def _relaxations(reference: pd.DataFrame, model: Predictor) -> int:
    """Return the number of distinct relaxations of protocols (b) and (c), in the cache or not."""
    undistorted = "state_key" if model.charge_labelled else "ion_key"
    return len(reference) + len(set(reference[undistorted]))


def _check_level(model: Predictor, reference: pd.DataFrame) -> None:
    level, own = reference["level"].iloc[0], model.level
    if level != own and not model.origin.outside:
        raise UserError(
            f"{model.name} was trained at {own}, the DFT reference is {level}; energies of different "
            "levels must not be compared"
        )


def _sit(
    protocol: Protocol,
    model: Predictor,
    host: Host,
    arrangements: Sequence[Arrangement],
    structures: Sequence[Atoms],
    settings: ChargeOrderSettings,
    stop: Stop,
    store: RelaxationCache,
    name: str,
) -> Answers:
    if protocol == SINGLE_POINT:
        return single_points(model, structures, settings.batch_size)
    return relaxed_states(
        model,
        host,
        arrangements,
        polaron_distortion=settings.polaron_distortion if protocol == HEADLINE else 0.0,
        stop=stop,
        batch_size=settings.batch_size,
        cache=store,
        progress=f"{name} {protocol}",
    )


def _no_answers(structures: Sequence[Atoms]) -> Answers:
    """Return the results of a model whose training diverged: every state diverged."""
    rows = {"status": DIVERGED, "steps": 0, "fmax_ev_a": np.nan, "energy_ev": np.nan}
    ends = [atoms.copy() for atoms in structures]
    for atoms in ends:
        atoms.positions[:] = np.nan
    return pd.DataFrame([rows] * len(structures)), ends


def _orders(
    model: Predictor, host: Host, answers: pd.DataFrame, ends: Sequence[Atoms], batch_size: int
) -> list[dict[str, Any]] | None:
    """Return the charge orders that predicted moments show; nothing for states that diverged.

    None if the model predicts no moments, or the redox rule has no windows for moments of its level.
    """
    if "magmoms" not in model.predicts or not all(model.level in s.magmom for s in host.rule.states):
        return None
    good = np.flatnonzero(answers["status"] != DIVERGED).tolist()
    shown = orders_shown(model, host, [ends[place] for place in good], batch_size)
    rows: list[dict[str, Any]] = [
        {"order": None, "realised_key": None, "moment_gap_mub": None} for _ in ends
    ]
    for place, row in zip(good, shown, strict=True):
        rows[place] = row
    return rows


def _write_structures(
    states: pd.DataFrame, answered: dict[Protocol, list[Atoms]], model: Predictor, path: Path
) -> None:
    """Write relaxed structures with state, protocol, status and energy; leave out those without one."""
    from ase import Atoms
    from ase.io import write

    frames = []
    for protocol, ends in answered.items():
        if protocol == SINGLE_POINT:
            continue
        rows = states[states["protocol"] == protocol]
        for (_, row), atoms in zip(rows.iterrows(), ends, strict=True):
            if row["status"] in WITHOUT_ENERGY:
                continue
            frame = Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
            frame.set_array(LABELS, atoms.arrays[LABELS])
            frame.info = {
                "protocol": protocol,
                "state_key": row["state_key"],
                "status": row["status"],
                "model_energy": float(row["energy_ev"]),
                "energy_reference": model.level or UNSTATED,
            }
            frames.append(frame)
    with atomic_path(path) as temporary:
        write(temporary, frames, format="extxyz")
