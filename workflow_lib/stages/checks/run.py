"""Relations that the products of a run must fulfil, whatever the host, the data and the models.

They are computed again from the tables, in other ways than by the stages that wrote them. A relation
that does not hold fails the run with one line.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_lib.core.elements import SYMBOLS
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import write_csv
from workflow_lib.frames.splits import SETS, Splits
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import checked, read_table, seal
from workflow_lib.results_schema import BEYOND, DIVERGED

HULL_TOLERANCE = 1e-3
"""meV per formula unit; energies of some 100 eV are read with ten digits, 1e-8 eV."""
VOLTAGE_TOLERANCE = 1e-6
"""V; energies read with ten digits leave 1e-8 eV a site."""


def run_checks(
    *,
    run: Path,
    charge_orders: Sequence[Path],
    searches: Sequence[Path],
    rule: RedoxRule,
    metals: Mapping[str, float],
    out: Path,
) -> None:
    """Check the products in the folder ``run`` and write ``checks.csv``: check, items, violations.

    ``charge_orders`` and ``searches``: folders of the models that the run has now; it may hold those of an
    earlier configuration. ``metals``: eV per atom of the mobile ion's metal by level of theory. Raises
    UserError with one clause for each check that fails, after the table is written.
    """
    findings = {
        "charge balance": list(unbalanced(run / "dataset", rule)),
        "splits": list(leaks(run / "dataset")),
        "energies": list(unusable_energies(run, charge_orders, searches)),
        "hull": list(below_hull(run / "thermodynamics")),
        "voltage": list(wrong_voltages(run, rule, metals)),
    }
    rows = [(name, len(found), found[0] if found else "") for name, found in findings.items()]
    write_csv(pd.DataFrame(rows, columns=["check", "violations", "first"]), out / "checks.csv")
    seal(out, "checks")
    failed = [f"{name}: {count} violations, first {first}" for name, count, first in rows if count]
    if failed:
        raise UserError(f"{run} does not hold together: {'; '.join(failed)}")


def unbalanced(dataset: Path, rule: RedoxRule) -> Iterator[str]:
    """Yield frames with charge states whose formal charges do not add up to zero."""
    for batch in iter_parquet(checked(dataset / "frames.parquet", "dataset")):
        for frame in batch:
            if frame.oxidation_states is None:
                continue
            states = np.asarray(frame.oxidation_states)
            others = [int(z) for z in frame.numbers if z != rule.redox_z]
            total = int(states.sum()) + sum(rule.formal_charges[SYMBOLS[z]] for z in others)
            if total:
                yield f"frame {frame.frame_id} has a charge of {total:+d} e"


def leaks(dataset: Path) -> Iterator[str]:
    """Yield states of the test set with frames in another set, and frames that a fold lacks or invents."""
    splits = Splits.load(checked(dataset / "splits.json", "dataset"))
    state_of: dict[str, str | None] = {}
    for batch in iter_parquet(checked(dataset / "frames.parquet", "dataset")):
        state_of |= {frame.frame_id: frame.state_key for frame in batch}
    for fold in splits.folds:
        placed = [frame_id for name in SETS for frame_id in fold.frames[name]]
        if set(placed) != set(state_of):
            lost = sorted(set(placed) ^ set(state_of))
            yield f"fold {fold.number} and the frames differ in {len(lost)} frames ({lost[0]})"
        sets: dict[str, set[str]] = defaultdict(set)
        for frame_id in placed:
            state = state_of.get(frame_id)
            if state is not None:
                sets[state].add(fold.frame_role(frame_id))
        for state, roles in sorted(sets.items()):
            if state in fold.states["test"] and roles != {"test"}:
                yield f"fold {fold.number}: test state {state} has frames in {', '.join(sorted(roles))}"
            if splits.split_by in ("state", "ions") and len(roles) > 1:
                yield f"fold {fold.number}: {state} is split over {', '.join(sorted(roles))}"


def unusable_energies(run: Path, charge_orders: Sequence[Path], searches: Sequence[Path]) -> Iterator[str]:
    """Yield rows of the tables of energies that report a result but have no finite energy."""
    tables = [(f"charge_order/{name}", run / "charge_order") for name in ("reference", "larger_cells")]
    tables += [("charge_order/states", path) for path in charge_orders]
    tables += [("search/found", path) for path in searches]
    for name, folder in tables:
        table = read_table(name, folder)
        wrong = ~np.isfinite(table["energy_ev"]) & (table["status"] != DIVERGED)
        for key in table.loc[wrong, "state_key"]:
            yield f"{folder}: {key} has no energy and has not diverged"


def below_hull(thermodynamics: Path) -> Iterator[str]:
    """Yield structures below the convex hull of their own source, drawn through the stored points."""
    formation = read_table("thermodynamics/formation", thermodynamics)
    hulls = read_table("thermodynamics/hull", thermodynamics)
    for (source, scope), hull in hulls.groupby(["id", "scope"]):
        own = formation[(formation["id"] == source) & formation["formation_mev_fu"].notna()]
        own = own[own["protocol"].isin(BEYOND) == (scope == "searched")]
        line = hull.sort_values("x")
        gap = own["formation_mev_fu"] - np.interp(own["x"], line["x"], line["formation_mev_fu"])
        for index in own.index[gap < -HULL_TOLERANCE]:
            yield f"{source}: {own['state_key'][index]} is {-gap[index]:.3f} meV per formula unit below"


def wrong_voltages(run: Path, rule: RedoxRule, metals: Mapping[str, float]) -> Iterator[str]:
    """Yield voltage profiles that rise with x (fall, of an anion), or disagree with the end members.

    V = -(mu - E(metal))/z, and mu of a convex hull rises with x.
    """
    formation = read_table("thermodynamics/formation", run / "thermodynamics")
    voltages = read_table("thermodynamics/voltage", run / "thermodynamics")
    for (source, scope), steps in voltages.groupby(["id", "scope"]):
        volts = steps.sort_values("x_low")
        own = formation[(formation["id"] == source) & formation["formation_mev_fu"].notna()]
        charge = rule.formal_charges[StateKey.parse(own["state_key"].iloc[0]).mobile]
        if (np.diff(volts["voltage_v"]) * np.sign(charge) > VOLTAGE_TOLERANCE).any():
            yield f"{source}, {scope}: the voltage {'rises' if charge > 0 else 'falls'} with x"
        energy = metals.get(str(own["level"].iloc[0]))
        if energy is None:
            yield f"{source}, {scope}: a voltage without the metal's energy at the level of its energies"
            continue
        if scope == "enumerated":
            own = own[~own["protocol"].isin(BEYOND)]
        keys = [StateKey.parse(key) for key in own["state_key"]]
        per_site = own["energy_ev"].to_numpy() / np.array([key.sites for key in keys])
        empty, full = (per_site[np.isclose(own["x"], x)].min() for x in (0, 1))
        expected = -(full - empty - energy) / charge
        found = float(((volts["x_high"] - volts["x_low"]) * volts["voltage_v"]).sum())
        if abs(found - expected) > VOLTAGE_TOLERANCE:
            yield f"{source}, {scope}: mean voltage {found:.6f} V, the end members say {expected:.6f} V"
