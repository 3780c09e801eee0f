"""One replica of a system: sample both of its expansions and write the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.io import write_csv
from workflow_lib.lattice.cluster_expansion import Expansion
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import checked, read_document, seal
from workflow_lib.results_schema import TABLES
from workflow_lib.stages.phase_diagram.sample import Lattice, entropies, free_energies, isotherms
from workflow_lib.stages.phase_diagram.settings import DECORATED, PLAIN, PhaseDiagramSettings

FIT, SAMPLE, SUMMARY = "phase-diagram-fit", "phase-diagram-sample", "summary.json"


def run_sample(
    *, expansions: Path, replica: int, host: Host, settings: PhaseDiagramSettings, seed: int, out: Path
) -> None:
    """Sample the expansions in the folder ``expansions`` and write the tables of one replica to ``out``.

    Writes ``isotherms.csv``, ``thermal.csv`` and ``entropy.csv`` (empty without charge states). Raises
    UserError for an expansion of another lattice or a point that cannot be sampled.
    """
    summary = read_document(expansions / SUMMARY, FIT, ("expansions",))
    tables: dict[str, list[pd.DataFrame]] = {"isotherms": [], "thermal": [], "entropy": []}
    for name in (DECORATED, PLAIN):
        if name not in summary["expansions"]:
            continue
        expansion = Expansion.load(checked(expansions / f"{name}.json", FIT), host)
        lattice = Lattice.of(name, expansion, host, settings.sampling)
        where = f"{out.name} {name}"
        rng = np.random.default_rng([seed, replica, *where.encode()])
        tables["isotherms"].append(isotherms(lattice, rng, where))
        tables["thermal"].append(free_energies(lattice, rng, where))
        if name == DECORATED:
            tables["entropy"].append(entropies(lattice, rng, where))
    for name, parts in tables.items():
        columns = list(TABLES[f"phase_diagram/replica_{name}"].columns)
        empty = pd.DataFrame(columns=columns)
        write_csv(pd.concat(parts, ignore_index=True) if parts else empty, out / f"{name}.csv")
    seal(out, SAMPLE, source=out.name)
