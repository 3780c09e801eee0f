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
from workflow_lib.frames.frame import TESTING
from workflow_lib.frames.splits import SETS, Splits
from workflow_lib.frames.table import iter_parquet
from workflow_lib.lattice.arrangement import StateKey
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.orientation import smallest_keys
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import checked, read_table, seal
from workflow_lib.results_schema import BEYOND, WITHOUT_ENERGY

HULL_TOLERANCE = 1e-3
"""meV per formula unit; energies of some 100 eV are read with ten digits, 1e-8 eV."""
VOLTAGE_TOLERANCE = 1e-6
"""V; energies read with ten digits leave 1e-8 eV a site."""


def run_checks(
    *,
    run: Path,
    charge_orders: Sequence[Path],
    searches: Sequence[Path],
    host: Host,
    metals: Mapping[str, float],
    out: Path,
) -> None:
    """Check the products in the folder ``run`` and write ``checks.csv``: check, items, violations.

    ``charge_orders`` and ``searches``: folders of the models that the run has now; it may hold those of an
    earlier configuration. ``metals``: eV per atom of the mobile ion's metal by level of theory. Raises
    UserError with one clause for each check that fails, after the table is written.
    """
    findings = {
        "charge balance": list(unbalanced(run / "dataset", host.rule)),
        "splits": list(leaks(run / "dataset", host)),
        "energies": list(unusable_energies(run, charge_orders, searches)),
        "hull": list(below_hull(run / "thermodynamics")),
        "voltage": list(wrong_voltages(run, host.rule, metals)),
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


def leaks(dataset: Path, host: Host) -> Iterator[str]:
    """Yield what a fold holds out but also trains on, and frames that it lacks or invents.

    No frame of a test state is in another set, nor is any of a unit that ``split_by`` keeps together. The
    frames for testing of an end member's unit may be held out beside others of it that train.
    """
    splits = Splits.load(checked(dataset / "splits.json", "dataset"))
    states, units, apart = _units(dataset, splits, host)
    for fold in splits.folds:
        placed = [frame_id for name in SETS for frame_id in fold.frames[name]]
        if set(placed) != set(states):
            lost = sorted(set(placed) ^ set(states))
            yield f"fold {fold.number} and the frames differ in {len(lost)} frames ({lost[0]})"
        of_state: dict[str, set[str]] = defaultdict(set)
        of_unit: dict[str, set[str]] = defaultdict(set)
        for frame_id in placed:
            role = fold.frame_role(frame_id)
            if frame_id in states and not (role == "test" and frame_id in apart):
                of_state[states[frame_id]].add(role)
                of_unit[units[frame_id]].add(role)
        for state, roles in sorted(of_state.items()):
            if state in fold.states["test"] and roles != {"test"}:
                yield f"fold {fold.number}: test state {state} has frames in {', '.join(sorted(roles))}"
        for unit, roles in sorted(of_unit.items()):
            if len(roles) > 1:
                yield f"fold {fold.number}: {unit} is split over {', '.join(sorted(roles))}"


def _units(
    dataset: Path, splits: Splits, host: Host
) -> tuple[Mapping[str, str], Mapping[str, str], frozenset[str]]:
    """Return the state and the unit of each frame, and the frames for testing of end members' units.

    A unit is a state, an arrangement of ions (of either, all supercells that repeat it are one), a
    material or a frame, by ``split_by``. A frame without a state has that of its group, else its group.
    """
    groups: dict[str, str] = {}
    states: dict[str, str] = {}
    ions: dict[str, str] = {}
    testing: set[str] = set()
    for batch in iter_parquet(checked(dataset / "frames.parquet", "dataset")):
        for frame in batch:
            groups[frame.frame_id] = frame.group
            states[frame.frame_id] = frame.state_key or splits.only_states.get(frame.group, frame.group)
            if frame.state_key is not None:
                ions[frame.state_key] = StateKey.parse(frame.state_key).ion_key
            if frame.kind == TESTING:
                testing.add(frame.frame_id)
    # Found again from the host: the splits name smallest cells too, and may be wrong.
    smallest = smallest_keys({*ions, *ions.values()}, host)
    units = {
        "state": {name: smallest.get(state, state) for name, state in states.items()},
        "ions": {name: smallest.get(ions.get(state, state), state) for name, state in states.items()},
        "material": groups,
        "frame": {name: name for name in states},
    }
    own = units[splits.split_by]
    ends = {own[name] for name, key in states.items() if key in ions and StateKey.parse(key).x in (0, 1)}
    return units["state"], own, frozenset(name for name in testing if own[name] in ends)


def unusable_energies(run: Path, charge_orders: Sequence[Path], searches: Sequence[Path]) -> Iterator[str]:
    """Yield rows of the tables of energies that report a result but have no finite energy."""
    tables = [(f"charge_order/{name}", run / "charge_order") for name in ("reference", "larger_cells")]
    tables += [("charge_order/states", path) for path in charge_orders]
    tables += [("search/found", path) for path in searches]
    for name, folder in tables:
        table = read_table(name, folder)
        wrong = ~np.isfinite(table["energy_ev"]) & ~table["status"].isin(WITHOUT_ENERGY)
        for key in table.loc[wrong, "state_key"]:
            yield f"{folder}: {key} has no energy and has neither diverged nor moved"


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
