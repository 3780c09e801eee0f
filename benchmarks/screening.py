"""Relaxations until a search finds the lowest arrangement: screened, genetic, random.

    python benchmarks/screening.py --model results/demo/training/painn-entropy-f0-s1 [--seeds 10]

One trained model, two supercells of the host, the stage's own searches:

- `1x1x1`, relaxed: the cell can be enumerated, so the lowest arrangements are known.
- `1x3x1`: every search evaluates `--budget` arrangements of each composition, **not relaxed** (energies of
  the distorted starts in the Vegard cell), or with `--relax` relaxed as the search stage does it. The
  lowest *known* arrangement is the lowest that any search evaluated; of compositions named by
  `--enumerate` it is the lowest that there is, because every distinct arrangement is evaluated once.

Energies are kept by arrangement, so ten seeds of three searches cost no more than the arrangements that
they ask for, and an interrupted run goes on. Ends with one line of JSON; writes a table (a row a search,
composition and seed) and a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # The folder of a script comes first on the path and would hide packages of the same names.
    sys.path[0] = str(ROOT)

if TYPE_CHECKING:
    from workflow_lib.lattice.arrangement import Arrangement
    from workflow_lib.lattice.host import Host
    from workflow_lib.models.predictor import Predictor
    from workflow_lib.simulation.settings import RelaxationSettings
    from workflow_lib.stages.search.evaluate import ModelEvaluator
    from workflow_lib.stages.search.problem import Evaluation, Problem, Record
    from workflow_lib.stages.search.settings import CellSettings

CONFIG = ROOT / "config/config.yaml"
WORK = ROOT / "results/benchmarks/screening"
METHODS = ("screened", "ga", "random")
BATCH = 64
SAME_EV = 1e-4
"""eV per formula unit; an arrangement at most this much above the lowest counts as found."""


class Unrelaxed:
    """Energies of the starts of relaxations, kept in a file."""

    def __init__(self, model: Predictor, host: Host, distortion: float, folder: Path) -> None:
        from workflow_lib.core.kept import Kept, key_of
        from workflow_lib.simulation.cache import host_identity, model_identity

        self.model, self.host, self.distortion = model, host, distortion
        what = key_of(model_identity(model), host_identity(host), distortion)
        self.kept = Kept(folder / f"unrelaxed-{what}.sqlite", "energies")
        self.values: dict[str, float] = {}
        empty, full = host.end_members(charges=True)
        energies = self.energies([*empty, *full])
        units = host.formula_units
        self.ends = tuple(
            min(energies[host.key(member)] for member in members) / units for members in (empty, full)
        )

    def energies(self, arrangements: Sequence[Arrangement]) -> dict[str, float]:
        """Return the energies (eV) by key; compute the missing ones."""
        keyed = {self.host.key(arrangement): arrangement for arrangement in arrangements}
        left = [key for key in keyed if key not in self.values]
        stored = self.kept.get_many(left)
        self.values |= {key: float(value) for key, value in stored.items()}
        missing = [key for key in left if key not in stored]
        for start in range(0, len(missing), BATCH):
            chunk = missing[start : start + BATCH]
            built = [
                self.host.build(self.host.canonical(keyed[key]), polaron_distortion=self.distortion)
                for key in chunk
            ]
            found = self.model.predict(built, batch_size=8)
            new = {key: float(own.energy) for key, own in zip(chunk, found, strict=True)}
            self.kept.put_many({key: repr(value).encode() for key, value in new.items()})
            self.values |= new
        return {key: self.values[key] for key in keyed}

    def evaluate(self, arrangements: Sequence[Arrangement]) -> list[Evaluation]:
        """Return evaluations as the searches want them."""
        from workflow_lib.lattice.formation import formation_energy
        from workflow_lib.stages.search.problem import Evaluation

        energies = self.energies(arrangements)
        found = []
        for arrangement in arrangements:
            energy = energies[self.host.key(arrangement)]
            per_unit = energy / (self.host.formula_units * arrangement.cells)
            x = self.host.composition(arrangement)
            formation = float(formation_energy(per_unit, x, *self.ends))
            found.append(Evaluation(energy, formation, None, 0, None, "unconverged"))
        return found


def search(
    method: str, problem: Problem, cell: CellSettings, seed: int, end_members: Any, folder: Path
) -> list[Record]:
    """Run one of the stage's searches with its own seed; all methods begin with the same arrangements."""
    from workflow_lib.core.code import code_checksum
    from workflow_lib.stages.search.problem import State
    from workflow_lib.stages.search.random_search import random_search
    from workflow_lib.stages.search.screened_search import screened_search
    from workflow_lib.stages.search.search import genetic_search
    from workflow_lib.stages.search.settings import OperatorWeights

    start = (seed, *cell.repeat, 0)
    bred: dict[str, Any] = {
        "start": np.random.default_rng(start),
        "budget": cell.budget,
        "population": cell.population,
        "offspring": cell.offspring,
        "weights": OperatorWeights(),
    }
    question = [cell.model_dump(mode="json"), str(folder), code_checksum(screened_search.__module__)]
    state = partial(State, folder, f"{cell.name}-{method}-{seed}", question)
    if method == "random":
        return random_search(
            problem, state(start), budget=cell.budget, first=cell.population, batch=cell.offspring
        )
    if method == "ga":
        return genetic_search(problem, state((seed, *cell.repeat, 1)), **bred)
    return screened_search(problem, state((seed, *cell.repeat, 2)), end_members=end_members, **bred)


def compare(
    relaxed: bool,
    problem: Problem,
    cell: CellSettings,
    end_members: Any,
    *,
    every: Sequence[tuple[int, float]],
    seeds: int,
    folder: Path,
) -> pd.DataFrame:
    """Return a row for each evaluation of each search; ``every`` has ions and energies of an enumeration.

    ``relaxed`` says what the energies are.
    ``above_mev_fu`` is how far the lowest so far of a composition lies above the lowest known one.
    """
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        for method in METHODS:
            for record in search(method, problem, cell, seed, end_members, folder):
                own = record.evaluation.formation
                rows.append(
                    {
                        "cell": cell.name,
                        "relaxed": relaxed,
                        "method": method,
                        "seed": seed,
                        "n_occupied": record.n_occupied,
                        "order": record.order,
                        "formation_ev_fu": np.nan if own is None else own,
                    }
                )
        print(f"{cell.name}: seed {seed + 1} of {seeds}", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    table["distinct"] = table["n_occupied"].map(problem.distinct)
    lowest = table.groupby("n_occupied")["formation_ev_fu"].min()
    for ions, energy in every:
        lowest[ions] = min(lowest.get(ions, np.inf), energy)
    best = table.groupby(["method", "seed", "n_occupied"])["formation_ev_fu"].cummin()
    table["above_mev_fu"] = 1000 * (best - table["n_occupied"].map(lowest))
    table["of_composition"] = table.groupby(["method", "seed", "n_occupied"]).cumcount() + 1
    return table


def needed(table: pd.DataFrame) -> pd.DataFrame:
    """Return, for each cell, composition and search, how many seeds found the lowest and how soon."""
    rows = []
    by = ["cell", "relaxed", "n_occupied", "method"]
    for (cell, relaxed, ions, method), own in table.groupby(by, sort=True):
        firsts = []
        for _, run in own.groupby("seed"):
            hit = run[run["above_mev_fu"] <= 1000 * SAME_EV]
            firsts.append(hit["of_composition"].min() if len(hit) else np.inf)
        last = own.sort_values("order").groupby("seed")["above_mev_fu"].last()
        median = float(np.median(firsts))
        rows.append(
            {
                "cell": cell,
                "relaxed": relaxed,
                "n_occupied": ions,
                "distinct": int(own["distinct"].iloc[0]),
                "method": method,
                "seeds": len(firsts),
                "found": int(np.isfinite(firsts).sum()),
                "median_relaxations": median if np.isfinite(median) else None,
                "most_relaxations": max(firsts) if np.isfinite(firsts).all() else None,
                "budget": int(own["of_composition"].max()),
                "left_mev_fu": round(float(last.mean()), 2),
            }
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, mobile: str, sites: dict[str, int], stem: Path) -> None:
    """Draw the lowest so far above the lowest known, mean and range over the seeds."""
    import matplotlib.pyplot as plt

    from workflow_lib.core.io import save_figure
    from workflow_lib.core.plotting import SEARCH_METHODS, style

    style()
    shown = [
        (cell, ions)
        for (cell, ions), own in table.groupby(["cell", "n_occupied"])
        if own["distinct"].iloc[0] > 2
    ]
    figure, panels = plt.subplots(1, len(shown), figsize=(3.1 * len(shown) + 0.3, 3.3), squeeze=False)
    for panel, (cell, ions) in zip(panels[0], shown, strict=True):
        name = str(cell)
        part = table[(table["cell"] == cell) & (table["n_occupied"] == ions)]
        for method in METHODS:
            words, colour, _ = SEARCH_METHODS[method]
            runs = part[part["method"] == method].pivot_table(
                index="of_composition", columns="seed", values="above_mev_fu"
            )
            runs = runs.ffill()
            panel.plot(runs.index, runs.mean(axis=1), color=colour, lw=1.6, label=words)
            panel.fill_between(
                runs.index, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.15, lw=0
            )
        relaxed = "relaxed" if part["relaxed"].iloc[0] else "not relaxed"
        distinct = int(part["distinct"].iloc[0])
        panel.set_title(f"{name}, {ions} of {sites[name]} {mobile}, {relaxed}\n{distinct} arrangements")
        panel.set_xlabel("arrangements evaluated at this x")
        panel.set_ylim(0)
    panels[0][0].set_ylabel("lowest so far above the lowest known\n(meV per formula unit)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save_figure(figure, stem)


def evaluator_of(
    model: Predictor, host: Host, relaxation: RelaxationSettings, cell: CellSettings, folder: Path
) -> ModelEvaluator:
    """Return the search stage's evaluator: positions and cells relaxed, kept in ``folder``."""
    from workflow_lib.simulation.cache import RelaxationCache, model_identity
    from workflow_lib.stages.search.evaluate import ModelEvaluator
    from workflow_lib.stages.search.settings import SearchSettings

    cache = RelaxationCache(folder / "relaxations", model_identity(model))
    stop = relaxation.stop(stress_converged=True)  # that of the embedded frames is
    return ModelEvaluator(model, host, cache, SearchSettings(cells=(cell,)), relaxation, stop, cell.name)


def small_cell(
    model: Predictor, host: Host, relaxation: RelaxationSettings, seeds: int, folder: Path
) -> tuple[pd.DataFrame, int]:
    """Compare in the host's own cell, relaxed; return the table and the number of its mobile sites."""
    from workflow_lib.lattice.arrangement import UNIT
    from workflow_lib.stages.search.genotype import Lattice
    from workflow_lib.stages.search.problem import Problem
    from workflow_lib.stages.search.settings import CellSettings

    cell = CellSettings(budget=14, population=4, offspring=1)
    evaluator = evaluator_of(model, host, relaxation, cell, folder)
    lattice = Lattice(host, UNIT, True, cell.occupations(host))
    arrangements = [a for n in lattice.compositions for a in host.enumerate(UNIT, n, charges=True)]
    found = evaluator.evaluate(arrangements, cell)
    known = {host.key(a): own for a, own in zip(arrangements, found, strict=True)}
    problem = Problem(lattice, lambda batch: [known[host.key(arrangement)] for arrangement in batch])
    every = [(len(a.occupied), own.formation) for a, own in zip(arrangements, found, strict=True)]
    good = [(ions, energy) for ions, energy in every if energy is not None]
    ends = evaluator.end_members()
    table = compare(True, problem, cell, ends, every=good, seeds=seeds, folder=folder / "relaxed")
    return table, lattice.n_mobile


def large_cell(
    model: Predictor,
    host: Host,
    relaxation: RelaxationSettings,
    *,
    relaxed: bool,
    ions: Sequence[int],
    budget: int,
    enumerated: Sequence[int],
    seeds: int,
    folder: Path,
) -> tuple[pd.DataFrame, int]:
    """Compare in the 1x3x1 cell; return the table and the number of its mobile sites."""
    from workflow_lib.stages.search.genotype import Lattice
    from workflow_lib.stages.search.problem import Problem
    from workflow_lib.stages.search.settings import CellSettings

    cell = CellSettings(
        repeat=(1, 3, 1),
        compositions=tuple(ions),
        budget=budget * len(ions),
        population=8 * len(ions),
        offspring=4,
        fmax=0.1,  # as the demo searches this cell
        max_steps=100,
    )
    evaluate: Callable[[Sequence[Arrangement]], list[Evaluation]]
    if relaxed:
        relaxing = evaluator_of(model, host, relaxation, cell, folder)
        evaluate, ends = partial(relaxing.evaluate, cell=cell), relaxing.end_members()
    else:
        source = Unrelaxed(model, host, relaxation.polaron_distortion, folder)
        members = [member for end in host.end_members(charges=True) for member in end]
        evaluate, ends = source.evaluate, list(zip(members, source.evaluate(members), strict=True))
    lattice = Lattice(host, cell.repeat, True, cell.occupations(host))
    every: list[tuple[int, float]] = []
    for number in enumerated:
        arrangements = host.enumerate(cell.repeat, number, charges=True)
        print(f"{cell.name}: {len(arrangements)} of {number} ions", file=sys.stderr, flush=True)
        known = [own.formation for own in evaluate(arrangements)]
        every += [(number, energy) for energy in known if energy is not None]
    table = compare(
        relaxed,
        Problem(lattice, evaluate),
        cell,
        ends,
        every=every,
        seeds=seeds,
        folder=folder / ("relaxed" if relaxed else "unrelaxed"),
    )
    assert lattice.n_mobile == prod(cell.repeat) * host.n_mobile((1, 1, 1))
    return table, lattice.n_mobile


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, tabulate, draw and print the line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a charge-labelled model")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--ions", type=int, nargs="+", default=(6, 8), help="compositions of 1x3x1")
    parser.add_argument("--budget", type=int, default=50, help="evaluations of each of them")
    parser.add_argument(
        "--enumerate", type=int, nargs="+", default=(), help="compositions of 1x3x1 to enumerate: minutes"
    )
    parser.add_argument("--relax", action="store_true", help="relax 1x3x1 too (PaiNN: 25 minutes)")
    parser.add_argument("--work", type=Path, default=WORK, help="where energies are kept")
    parser.add_argument("--out", type=Path, help="stem of tables and figure (default: WORK/screening)")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = "1"
    from workflow_lib.config_files import load_config
    from workflow_lib.core.io import write_csv
    from workflow_lib.core.threads import use_threads
    from workflow_lib.lattice.host import Host
    from workflow_lib.results_models import load_model

    use_threads(1)
    config = load_config(CONFIG)
    host = Host.load(ROOT / config.host, config.redox)
    model = load_model(options.model)
    if not model.charge_labelled:
        parser.error(f"{options.model} does not see charge states")
    relaxation, work = config.charge_order, options.work / options.model.name
    small, small_sites = small_cell(model, host, relaxation, options.seeds, work)
    large, large_sites = large_cell(
        model,
        host,
        relaxation,
        relaxed=options.relax,
        ions=options.ions,
        budget=options.budget,
        enumerated=options.enumerate,
        seeds=options.seeds,
        folder=work,
    )
    table = pd.concat([small, large], ignore_index=True)
    counts = needed(table)
    stem = options.out or options.work / "screening"
    write_csv(counts, Path(f"{stem}.csv"))
    draw(table, host.mobile, {"1x1x1": small_sites, "1x3x1": large_sites}, stem)
    print(counts.to_string(index=False), file=sys.stderr)
    own = counts[counts["cell"] == "1x3x1"].groupby("method")["found"].sum()
    print(json.dumps({"name": "screening/1x3x1", "seeds": options.seeds, **own.to_dict()}))


if __name__ == "__main__":
    main()
