"""All systems together: join the replicas, find the boundaries, write tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.io import write_csv
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.isotherms import voltage
from workflow_lib.lattice.reservoir import dilute_species
from workflow_lib.results_reading import read_document, read_table, seal
from workflow_lib.results_schema import TABLES
from workflow_lib.stages.phase_diagram import figures
from workflow_lib.stages.phase_diagram.boundaries import (
    boundary_table,
    features,
    grid_step,
    isotherm_table,
    loops,
    mean_free_energies,
    tangents,
)
from workflow_lib.stages.phase_diagram.settings import DECORATED, FIT, SUMMARY, PhaseDiagramSettings

DIAGRAM = "phase-diagram"
PARTS = ("isotherms", "thermal", "entropy")
ENTROPIES = ["total_k_site", "ions_k_site", "charges_k_site", "mutual_k_site"]


def run_diagram(
    *,
    systems: Sequence[Path],
    samples: Mapping[str, Sequence[Path]],
    hosts: Mapping[str, Host],
    settings: PhaseDiagramSettings,
    metal: Callable[[str, str], float | None],
    out: Path,
) -> None:
    """Join all replicas of all systems and write boundaries, entropies, voltages and figures to ``out``.

    ``samples`` holds the folders of each system's replicas, ``hosts`` its host; ``metal`` returns the
    energy of an element's metal at a level of theory (eV an atom), None where it is unknown: no voltage.
    """
    parts: dict[str, list[pd.DataFrame]] = {
        name: [] for name in ("boundaries", "isotherms", "free_energy", "entropy")
    }
    named: list[dict[str, object]] = []
    shown: list[figures.System] = []
    for folder in systems:
        summary = read_document(folder / SUMMARY, FIT, ("label", "level", "expansions"))
        name, host = folder.name, hosts[folder.name]
        replicas = [
            {part: read_table(f"phase_diagram/replica_{part}", sample) for part in PARTS}
            for sample in samples[name]
        ]
        system = figures.System(
            *(str(summary["label"]), host, {}, {}, {}, pd.DataFrame()),
            experiment=settings.system(name).experiment,
        )
        for expansion in summary["expansions"]:
            iso = [_of(item["isotherms"], expansion) for item in replicas]
            free = [_of(item["thermal"], expansion) for item in replicas]
            species = dilute_species(host, charges=expansion == DECORATED)
            points, thermal = isotherm_table(iso), mean_free_energies(free)
            gaps = boundary_table(iso, free, thermal, species=species)
            known = metal(host.mobile, str(summary["level"]))
            points["voltage_v"] = (
                np.nan
                if known is None
                else voltage(points["mu_ev"].to_numpy(float), metal_energy=known, charge=host.mobile_charge)
            )
            identity = {"system": name, "expansion": expansion}
            found = features(settings.sampling.temperatures, tangents(gaps), step=grid_step(thermal))
            area = loops(points, host.mobile_charge)
            named.append({**identity, **found, "hysteresis_v": area.get(_room(area))})
            parts["boundaries"].append(gaps.assign(**identity))
            parts["isotherms"].append(points.assign(**identity))
            parts["free_energy"].append(thermal.assign(**identity))
            system.isotherms[expansion], system.free[expansion] = points, thermal
            system.boundaries[expansion] = gaps
        entropy = pd.concat([item["entropy"] for item in replicas], ignore_index=True)
        if len(entropy):
            grouped = entropy.groupby(["temperature_k", "x"])[ENTROPIES]
            joined = grouped.mean().join(grouped.std(ddof=1).add_suffix("_std")).reset_index()
            system = system.with_entropy(joined)
            parts["entropy"].append(joined.assign(system=name))
        shown.append(system)
    for table, rows in parts.items():
        columns = list(TABLES[f"phase_diagram/{table}"].columns)
        joined = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=columns)
        write_csv(joined, out / f"{table}.csv")
    write_csv(pd.DataFrame(named), out / "features.csv")
    figures.draw_diagram(shown, out / "diagram")
    figures.draw_entropy(shown, out / "entropy")
    figures.draw_isotherms(shown, out / "isotherms")
    seal(out, DIAGRAM)


def samples_of(systems: Sequence[Path], settings: PhaseDiagramSettings) -> dict[str, list[Path]]:
    """Return the folders of each system's replicas: beside its own, ``<system>-r<replica>``."""
    return {
        folder.name: [
            folder.with_name(f"{folder.name}-r{replica}") for replica in range(settings.sampling.replicas)
        ]
        for folder in systems
    }


def _of(table: pd.DataFrame, expansion: str) -> pd.DataFrame:
    return table[table["expansion"] == expansion].reset_index(drop=True)


def _room(values: Mapping[float, float]) -> float:
    """Return the sampled temperature that is nearest to 300 K."""
    return min(values, key=lambda t: abs(t - 300.0), default=300.0)
