"""What a dataset holds, in numbers: the tables behind the figures and ``summary.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from workflow_lib.dataset.assign import SetAside, split_names
from workflow_lib.dataset.settings import DatasetSettings
from workflow_lib.dataset.subset import composition, in_subset, subset_is_full
from workflow_lib.frames import Frame
from workflow_lib.redox import RedoxRule

LABELS = ("energy", "forces", "stress", "magmoms", "charges", "oxidation_states", "state_key")
NOT_USED = "set aside or not assigned"
"""State of a redox site in a frame that was set aside, or is of another chemistry without states."""


def composition_table(frames: Sequence[Frame]) -> pd.DataFrame:
    """Frames and states per composition and kind: composition, kind, frames, states."""
    table = pd.DataFrame(
        {
            "composition": [composition(frame) for frame in frames],
            "kind": [frame.kind for frame in frames],
            "state": split_names(frames),
        }
    )
    found = table.groupby(["composition", "kind"], sort=True)["state"]
    counts = found.agg(frames="size", states="nunique").reset_index()
    total = table.groupby("composition")["state"].nunique()
    return counts.assign(states_of_composition=counts["composition"].map(total))


def site_table(frames: Sequence[Frame], aside: Sequence[SetAside], rule: RedoxRule) -> pd.DataFrame:
    """One row a redox site: state, moment (muB, magnitude) and charge (e), NaN where unknown."""
    states, moments, charges = [], [], []
    for frame in [*frames, *(item.frame for item in aside)]:
        site = frame.numbers == rule.redox_z
        labels = frame.oxidation_states if frame.oxidation_states is not None else np.zeros(len(frame), int)
        n = int(np.count_nonzero(site))
        states.append(labels[site])
        moments.append(np.full(n, np.nan) if frame.magmoms is None else np.abs(frame.magmoms[site]))
        charges.append(np.full(n, np.nan) if frame.charges is None else frame.charges[site])
    used = sum(int(np.count_nonzero(frame.numbers == rule.redox_z)) for frame in frames)
    numbers = np.concatenate([np.array([], int), *states])
    numbers[used:] = 0  # whatever a file said of a frame that is not used
    names = np.where(numbers > 0, [f"{rule.element}{n}+" for n in numbers], NOT_USED)
    return pd.DataFrame(
        {
            "state": names.astype(str),
            "moment_mub": np.concatenate([np.array([]), *moments]),
            "charge_e": np.concatenate([np.array([]), *charges]),
        }
    )


def histogram_table(sites: pd.DataFrame, widths: dict[str, float]) -> pd.DataFrame:
    """Histograms of site quantities per state: quantity, low, high (bin edges), state, sites.

    ``widths`` gives the bin width of each column of ``sites``.
    """
    rows = []
    for quantity, width in widths.items():
        known = sites[["state", quantity]].dropna()
        if known.empty:
            continue
        low = np.floor(known[quantity].min() / width)
        count = max(1, int(np.floor(known[quantity].max() / width) - low) + 1)
        edges = np.round((low + np.arange(count + 1)) * width, 6)
        for state, values in known.groupby("state")[quantity]:
            heights = np.histogram(values, edges)[0]
            rows += [
                {"quantity": quantity, "low": a, "high": b, "state": state, "sites": int(h)}
                for a, b, h in zip(edges[:-1], edges[1:], heights, strict=True)
            ]
    return pd.DataFrame(rows, columns=["quantity", "low", "high", "state", "sites"])


def energy_table(frames: Sequence[Frame]) -> pd.DataFrame:
    """One row a frame: its energy above the lowest frame of its state, in meV/atom."""
    table = pd.DataFrame(
        {
            "frame_id": [frame.frame_id for frame in frames],
            "state": split_names(frames),
            "composition": [composition(frame) for frame in frames],
            "kind": [frame.kind for frame in frames],
            "energy_ev_atom": [frame.energy / len(frame) for frame in frames],
            "fmax_ev_a": [np.nan if frame.fmax is None else frame.fmax for frame in frames],
        }
    )
    lowest = table.groupby(["state", "composition"])["energy_ev_atom"].transform("min")
    # Rounded to 1 neV, so that a difference of equal numbers is zero in every build of numpy.
    table["above_lowest_mev_atom"] = ((table["energy_ev_atom"] - lowest) * 1000).round(6)
    return table


def coverage_table(frames: Sequence[Frame]) -> pd.DataFrame:
    """How many frames carry each label: label, frames, share."""
    counts = [sum(getattr(frame, label) is not None for frame in frames) for label in LABELS]
    counts.append(sum(frame.stress is not None and frame.stress_converged for frame in frames))
    return pd.DataFrame(
        {
            "label": [*LABELS, "stress_converged"],
            "frames": counts,
            "share": [count / len(frames) for count in counts],
        }
    )


def summarise(
    frames: Sequence[Frame],
    aside: Sequence[SetAside],
    splits: dict[str, Any],
    settings: DatasetSettings,
    *,
    source_sha256: str,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """The content of ``summary.json``; ``warnings`` are findings a reader of the results must know."""
    coverage = coverage_table(frames).set_index("label")["frames"].to_dict()
    energies = energy_table(frames)
    ranges = energies.groupby("kind")["above_lowest_mev_atom"].agg(["size", "median", "max"])
    return {
        "source": {
            "path": settings.path,
            "sha256": source_sha256,
            "names": sorted({frame.source for frame in frames}),
        },
        "energy_reference": settings.energy_reference,
        "frames": {
            "read": len(frames) + len(aside),
            "kept": len(frames),
            "set_aside": len(aside),
            "set_aside_by_reason": dict(Counter(item.category for item in aside)),
        },
        "atoms": sum(len(frame) for frame in frames),
        "states": len({frame.state_key for frame in frames} - {None}),
        "groups": len({frame.group for frame in frames}),
        "frames_on_no_host": sum(frame.state_key is None for frame in frames),
        "frames_by_composition": dict(Counter(composition(frame) for frame in frames)),
        "frames_by_kind": dict(Counter(frame.kind for frame in frames)),
        "labels": coverage,
        "stress": {
            "frames": coverage["stress"],
            "converged_frames": coverage["stress_converged"],
            "converged": coverage["stress"] > 0 and coverage["stress"] == coverage["stress_converged"],
        },
        "energy_above_lowest_of_state_mev_atom": {
            kind: {"frames": int(row["size"]), "median": row["median"], "max": row["max"]}
            for kind, row in ranges.iterrows()
        },
        "subset": {
            "elements": settings.subset_elements,
            "required_elements": settings.required_elements,
            "frames": sum(in_subset(frame.numbers, settings) for frame in frames),
            "identical_to_full": subset_is_full(frames, settings),
        },
        "splits": {
            "seed": splits["seed"],
            "folds": splits["count"],
            "run": settings.folds.run,
            "always_train": splits["always_train"],
            "frames": [
                {part: len(fold[part]) for part in ("train", "validation", "test")}
                for fold in splits["folds"]
            ],
        },
        "warnings": list(warnings),
    }
