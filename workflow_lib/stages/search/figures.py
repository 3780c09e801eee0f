"""Figures of the searches: one for each model and one for all models."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.core.plotting import SEARCH_METHODS as METHODS
from workflow_lib.core.plotting import style
from workflow_lib.lattice.host import Host
from workflow_lib.results_reading import read_document, seal, write_table
from workflow_lib.results_schema import MODEL
from workflow_lib.stages.search.settings import CellSettings, SearchSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LINES = {"ga": "-", "random": "--", "screened": "-."}
"""The searches that have a budget, with their lines."""
LEAST_GAIN = 0.5
"""meV per formula unit; below it a bar is too short to be seen, and its number is written."""


def shown(cell: CellSettings, host: Host, x: float) -> int:
    """Return the searched number of mobile ions closest to x (the lower one of a tie)."""
    sites = host.n_mobile(cell.repeat)
    return min(cell.occupations(host), key=lambda n: (abs(n / sites - x), n))


def _reduced(number: int, sites: int) -> str:
    common = int(np.gcd(number, sites))
    return f"{number // common}/{sites // common}"


def search_figure(
    found: pd.DataFrame,
    history: pd.DataFrame,
    host: Host,
    settings: SearchSettings,
    title: str,
    stem: Path,
) -> None:
    """Draw how the searches of one model advanced and what they found: ``stem`` .svg, .png and .csv.

    Left: lowest formation energy at one composition of the largest cell against the number of
    relaxations (of all compositions). Right: formation energy of every arrangement found.
    """
    import matplotlib.pyplot as plt

    style()
    cell = settings.largest
    number = shown(cell, host, settings.shown_x)
    label = _reduced(number, host.n_mobile(cell.repeat))
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.5))
    rows = history[(history["cell"] == cell.name) & (history["n_occupied"] == number)]
    _progress(left, rows, history[history["cell"] == cell.name])
    left.set_xlabel("relaxations, all compositions")
    left.set_ylabel(f"formation energy at x = {label}\n(meV per formula unit)")
    left.set_title(f"Search in the {cell.name} cell")
    _landscape(right, found)
    right.set_title("All arrangements found")
    figure.suptitle(title)
    save_figure(figure, stem)
    write_csv(rows, Path(f"{stem}.csv"))


def _progress(axes: Axes, rows: pd.DataFrame, all_rows: pd.DataFrame) -> None:
    from matplotlib.ticker import MaxNLocator

    if rows["best_mev_fu"].notna().any():
        for method, line in LINES.items():
            text, colour, marker = METHODS[method]
            own = rows[rows["method"] == method]
            if own.empty:
                continue
            end = all_rows.loc[all_rows["method"] == method, "evaluation"].max()
            axes.plot(own["evaluation"], own["formation_mev_fu"], marker, color=colour, ms=4, mfc="none")
            # The lowest energy so far does not change while other compositions are relaxed.
            axes.step(
                [*own["evaluation"], end],
                [*own["best_mev_fu"], own["best_mev_fu"].iloc[-1]],
                where="post",
                color=colour,
                lw=1.8,
                ls=line,
                label=f"lowest so far, {text}",
            )
        axes.plot([], [], "h", color="0.4", mfc="none", ms=4, label="single arrangements (marks)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
    else:
        _nothing(axes)


def _landscape(axes: Axes, found: pd.DataFrame) -> None:
    good = found.dropna(subset=["formation_mev_fu"])
    if good.empty:
        _nothing(axes)
    # Otherwise markers hide each other.
    shift = {"ga": -0.008, "random": 0.008, "screened": 0.016, "enumeration": 0.0}
    for method, (text, colour, marker) in METHODS.items():
        own = good[good["method"] == method]
        if len(own):
            axes.plot(
                own["x"] + shift[method], own["formation_mev_fu"], marker, color=colour, ms=5, mfc="none",
                label=text,
            )  # fmt: skip
    if not good.empty:
        best = good.groupby("x")["formation_mev_fu"].min()
        axes.plot(best.index, best, color="0.6", lw=1, zorder=0, label="lowest at each x")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    axes.set_xlabel("x, mobile ions per site")
    axes.set_ylabel("formation energy\n(meV per formula unit)")


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no relaxation succeeded", transform=axes.transAxes, ha="center")


def search_overview(searches: Iterable[Path], out: Path) -> None:
    """Draw all models side by side; write ``overview.{svg,png,csv}`` to the folder ``out``.

    ``searches`` are folders that :func:`workflow_lib.stages.search.run.run_search` wrote. The
    figure shows the lowest formation energy that the genetic algorithm and random search reached
    with the same number of relaxations, at the composition that the model's own figure shows, and what
    the screened search reached, where it ran. The table has all cells and compositions; it tells how
    many arrangements each search relaxed of all compositions (``*_relaxations``), after how many it had its
    lowest energy (``*_relaxations_needed``), and of an enumerated cell whether it found the ground state
    (null where it relaxed every arrangement of the composition, which is no search). Raises UserError if
    there are no searches.
    """
    import matplotlib.pyplot as plt

    folders = sorted(Path(folder) for folder in searches)
    if not folders:
        raise UserError("no searches to show: the search needs at least one trained model")
    table = pd.concat([_reached(folder) for folder in folders], ignore_index=True)
    write_table("search/overview", table, out)
    style()
    rows = table[table["shown"]].drop_duplicates("id").reset_index(drop=True)
    figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(8.2, 1.6 + 0.28 * len(rows)))
    places = np.arange(len(rows))[::-1]
    left.hlines(places, rows["ga_mev_fu"], rows["random_mev_fu"], color="0.75", lw=1.5, zorder=1)
    # One marker inside the other where they are equal.
    for method, size in (("ga", 5), ("random", 9), ("screened", 13)):
        text, colour, marker = METHODS[method]
        fill = colour if method == "ga" else "none"
        energy = rows[f"{method}_mev_fu"]
        if energy.isna().all():
            continue
        left.plot(energy, places, marker, color=colour, mfc=fill, ms=size, label=text)
    left.set_yticks(places, rows["id"])
    left.set_ylim(-0.6, len(rows) - 0.4)
    left.set_xlabel("lowest formation energy found,\neach model's own (meV per formula unit)")
    others = [name for name in ("ga", "screened") if rows[f"{name}_mev_fu"].notna().any()]
    height = 0.5 / max(len(others), 1)
    for number, method in enumerate(others):
        gain = rows["random_mev_fu"] - rows[f"{method}_mev_fu"]
        at = places + height * ((len(others) - 1) / 2 - number)
        colours = np.where(gain < 0, METHODS["random"][1], METHODS[method][1])
        right.barh(at, gain, height=height, color=colours)
        for place, value in zip(at, gain, strict=True):
            if abs(value) < LEAST_GAIN:
                text = f"{abs(value):.1f}"
                right.annotate(text, (0, place), (4, 0), textcoords="offset points", va="center")
    right.axvline(0, color="0.3", lw=0.8)
    lower = "GA lower" if others == ["ga"] else "GA, screened search lower"
    right.set_xlabel(
        f"random search minus {'the others' if len(others) > 1 else 'genetic algorithm'}\n"
        f"(meV per formula unit; > 0: {lower})"
    )
    if len(rows):
        first = rows.iloc[0]
        ratio = _reduced(int(first["n_occupied"]), round(first["n_occupied"] / first["x"]))
        done = rows[[f"{method}_relaxations" for method in LINES if f"{method}_relaxations" in rows]]
        least, most = (int(edge(done.to_numpy(dtype=float))) for edge in (np.nanmin, np.nanmax))
        figure.suptitle(
            f"{first['cell']} cell, lowest at x = {ratio}; each search relaxed "
            f"{least if least == most else f'{least} to {most}'} arrangements of all compositions",
            fontsize=9,
        )
    figure.legend(loc="outside lower center", ncols=2)
    save_figure(figure, Path(out) / "overview")
    seal(out, "search-overview")


def _reached(folder: Path) -> pd.DataFrame:
    summary = read_document(folder / "summary.json", "search", (*MODEL, "arranged", "cells", "shown"))
    rows = []
    for name, cell in summary["cells"].items():
        lowest = {method: data["lowest"] for method, data in cell["methods"].items()}
        for number, distinct in cell["distinct_arrangements"].items():
            row = {
                **{column: summary[column] for column in MODEL},
                "arranged": summary["arranged"],
                "cell": name,
                "n_occupied": int(number),
                "x": int(number) / cell["sites"],
                "distinct_arrangements": distinct,
                "budget": cell["budget"],
                "shown": name == summary["shown"]["cell"] and int(number) == summary["shown"]["n_occupied"],
            }
            for method in METHODS:
                reached = lowest.get(method, {}).get(number)
                row[f"{method}_mev_fu"] = reached["formation_mev_fu"] if reached else np.nan
                row[f"{method}_state_key"] = reached["key"] if reached else None
            for method in (name for name in LINES if name in cell["methods"]):
                own = cell["methods"][method]
                reached = lowest[method].get(number)
                row[f"{method}_relaxations"] = own["relaxations"]
                row[f"{method}_relaxations_needed"] = reached["order"] if reached else None
                row[f"{method}_found_ground_state"] = own.get("ground_states_found", {}).get(number)
            rows.append(row)
    rows.sort(key=lambda row: (row["cell"], row["n_occupied"]))
    return pd.DataFrame(rows)
