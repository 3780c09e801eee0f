"""The contents of a dataset in numbers: the tables behind the figures, and ``summary.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.frames.splits import Splits
from workflow_lib.stages.dataset.assign import CATEGORIES, category, state_names
from workflow_lib.stages.dataset.index import Index
from workflow_lib.stages.dataset.settings import DatasetSettings


def _states(rows: pd.DataFrame) -> pd.Series:
    """Return the state (or group) of each frame that is used."""
    return state_names(rows["group"], rows["state_key"])


def composition_table(index: Index) -> pd.DataFrame:
    """Return the frames and states per composition and kind: composition, kind, frames, states."""
    rows = index.used()
    table = rows[["composition", "kind"]].assign(state=_states(rows))
    found = table.groupby(["composition", "kind"], sort=True)["state"]
    counts = found.agg(frames="size", states="nunique").reset_index()
    total = table.groupby("composition")["state"].nunique()
    return counts.assign(states_of_composition=counts["composition"].map(total))


def charge_state_table(index: Index) -> pd.DataFrame:
    """Return what became of the charge states of each material, most frames set aside first.

    A material is a composition per formula unit. Columns: material, groups, frames, labelled (used,
    with charge states), other chemistry (used without them, outside the chemical subset), and one
    for each category of :data:`assign.CATEGORIES`; the last three kinds of column add up to frames.
    """
    rows, kept = index.rows, index.kept
    fate = pd.Series(
        np.where(rows["labelled"], "labelled", "other chemistry"), index=rows.index, dtype=object
    )
    fate[~kept] = rows.loc[~kept, "reason"].map(category)
    columns = ["labelled", "other chemistry", *CATEGORIES]
    counts = pd.crosstab(rows["composition"], fate).reindex(columns=columns, fill_value=0)
    materials = rows.groupby("composition")["group"].agg(groups="nunique", frames="size")
    table = materials.join(counts).rename_axis("material").reset_index()
    aside = table[list(CATEGORIES)].sum(axis=1)
    order = np.lexsort((table["material"], -aside))
    return table.iloc[order].reset_index(drop=True)


def energy_table(index: Index) -> pd.DataFrame:
    """Return one row per frame: its energy above the lowest frame of its state, in meV/atom."""
    rows = index.used()
    table = pd.DataFrame(
        {
            "frame_id": rows["frame_id"],
            "state": _states(rows),
            "composition": rows["composition"],
            "kind": rows["kind"],
            "energy_ev_atom": rows["energy"] / rows["atoms"],
            "fmax_ev_a": rows["fmax"],
        }
    ).reset_index(drop=True)
    lowest = table.groupby(["state", "composition"])["energy_ev_atom"].transform("min")
    # Rounded to 1 neV, so that a difference of equal numbers is zero with every build of numpy.
    table["above_lowest_mev_atom"] = ((table["energy_ev_atom"] - lowest) * 1000).round(6)
    return table


def coverage_table(index: Index) -> pd.DataFrame:
    """Return how many frames carry each label: label, frames, share."""
    rows = index.used()
    flags = {"energy": pd.Series(True, index=rows.index)}
    flags |= {name: rows[name] for name in ("forces", "stress", "magmoms", "charges")}
    flags |= {"oxidation_states": rows["labelled"], "state_key": rows["state_key"].notna()}
    flags["stress_converged"] = rows["stress"] & rows["stress_converged"]
    counts = [int(flag.sum()) for flag in flags.values()]
    return pd.DataFrame(
        {"label": list(flags), "frames": counts, "share": [count / len(rows) for count in counts]}
    )


def summarise(
    index: Index,
    splits: Splits,
    settings: DatasetSettings,
    *,
    source_sha256: str,
    moments_and_charges: Mapping[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Return the content of ``summary.json``; ``warnings`` are findings that a reader must know."""
    rows, energies = index.used(), energy_table(index)
    coverage = coverage_table(index).set_index("label")["frames"].to_dict()
    ranges = energies.groupby("kind")["above_lowest_mev_atom"].agg(["size", "median", "max"])
    aside = index.rows.loc[~index.kept, "reason"]
    return {
        "source": {
            "path": settings.path,
            "sha256": source_sha256,
            "names": sorted(rows["source"].unique()),
        },
        "energy_reference": settings.energy_reference,
        "frames": {
            "read": len(index.rows),
            "kept": len(rows),
            "set_aside": len(aside),
            "set_aside_by_reason": dict(Counter(aside.map(category))),
        },
        "atoms": int(rows["atoms"].sum()),
        "states": rows["state_key"].nunique(),
        "groups": rows["group"].nunique(),
        "frames_on_no_host": int(rows["state_key"].isna().sum()),
        "frames_of_the_host_on_no_site": int(rows["misfit"].notna().sum()),
        "frames_by_composition": dict(Counter(rows["composition"])),
        "frames_by_kind": dict(Counter(rows["kind"])),
        "labels": coverage,
        "stress": {
            "frames": coverage["stress"],
            "converged_frames": coverage["stress_converged"],
            "converged": coverage["stress"] > 0 and coverage["stress"] == coverage["stress_converged"],
        },
        "moments_and_charges": moments_and_charges,
        "energy_above_lowest_of_state_mev_atom": {
            kind: {"frames": int(row["size"]), "median": row["median"], "max": row["max"]}
            for kind, row in ranges.iterrows()
        },
        "subset": {
            "elements": settings.subset_elements,
            "required_elements": settings.required_elements,
            "frames": int(rows["subset"].sum()),
            "identical_to_full": bool(rows["subset"].all()),
        },
        "splits": {
            "split_by": splits.split_by,
            "seed": splits.seed,
            "folds": len(splits.folds),
            "run": settings.folds.run,
            "always_train": splits.always_train,
            "frames": [
                {name: len(frames) for name, frames in fold.frames.items()} for fold in splits.folds
            ],
        },
        "warnings": list(warnings),
    }
