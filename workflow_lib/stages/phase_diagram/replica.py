"""One replica of a system: sample both of its expansions and write the tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from workflow_lib.core.code import code_checksum
from workflow_lib.core.io import sha256, write_csv
from workflow_lib.core.kept import Kept, key_of
from workflow_lib.lattice.cluster_expansion import Expansion
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import checked, read_document, seal
from workflow_lib.results_schema import TABLES
from workflow_lib.simulation.cache import host_identity
from workflow_lib.stages.phase_diagram.pieces import Pieces
from workflow_lib.stages.phase_diagram.sample import Lattice, entropies, free_energies, isotherms
from workflow_lib.stages.phase_diagram.settings import DECORATED, FIT, PLAIN, SUMMARY, PhaseDiagramSettings

SAMPLE = "phase-diagram-sample"


def run_sample(
    *,
    expansions: Path,
    replica: int,
    host: Host,
    settings: PhaseDiagramSettings,
    seed: int,
    work: Path,
    out: Path,
) -> None:
    """Sample the expansions in the folder ``expansions`` and write the tables of one replica to ``out``.

    Writes ``isotherms.csv``, ``thermal.csv`` and ``entropy.csv`` (empty without charge states). What is
    done is kept in ``work`` until all is. Raises UserError for an expansion of another lattice or a point
    that cannot be sampled.
    """
    summary = read_document(expansions / SUMMARY, FIT, ("expansions",))
    decides: list[object] = [code_checksum("workflow_lib.stages.phase_diagram.sample"), host_identity(host)]
    decides += [settings.sampling.model_dump(mode="json"), seed, replica]
    decides += [sha256(path) for path in sorted(expansions.glob("*.json"))]
    kept = Kept(work / f"{key_of(out.name, *decides)}.sqlite", "isotherms and free energies")
    tables: dict[str, list[pd.DataFrame]] = {"isotherms": [], "thermal": [], "entropy": []}
    for name in (DECORATED, PLAIN):
        if name not in summary["expansions"]:
            continue
        expansion = Expansion.load(checked(expansions / f"{name}.json", FIT), host)
        lattice = Lattice.of(name, expansion, host, settings.sampling)
        pieces = Pieces(f"{out.name} {name}", (seed, replica), kept)
        tables["isotherms"].append(isotherms(lattice, pieces))
        tables["thermal"].append(free_energies(lattice, pieces))
        if name == DECORATED:
            tables["entropy"].append(entropies(lattice, pieces))
    for name, parts in tables.items():
        columns = list(TABLES[f"phase_diagram/replica_{name}"].columns)
        empty = pd.DataFrame(columns=columns)
        write_csv(pd.concat(parts, ignore_index=True) if parts else empty, out / f"{name}.csv")
    seal(out, SAMPLE, source=out.name)
    kept.remove()
