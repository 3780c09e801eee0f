"""Figures of the embeddings: of one model, and of all models together (Fig. 2 of the abstract)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd

from workflow_lib.core.errors import UserError
from workflow_lib.core.io import save_figure, write_csv
from workflow_lib.core.plotting import COLOUR_FE2, COLOUR_FE3, SMALL, legend_entries, panel_shape, style
from workflow_lib.models.identity import look_of, variants_in
from workflow_lib.results_models import over_the_same_states
from workflow_lib.results_reading import read_document, read_table, seal, write_table
from workflow_lib.results_schema import MODEL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (COLOUR_FE2, COLOUR_FE3)
MARKERS = ("o", "^")
NUMBERS = ("redox_silhouette", "redox_accuracy")
IDENTITY = (
    *MODEL,
    "init",
    "redox_embedding",
    "redox",
    "status",
)
MOST_COLUMNS = 4
NOT_COMPARABLE = "axes belong to one model and are not comparable between models"


def scatter_frames(panel: Axes, points: pd.DataFrame, redox: str, *, path: bool) -> None:
    """Draw the frames of seen and held-out states, and the path of the followed relaxation."""
    frames, states = points[points["origin"] == "frame"], _states(points)
    for state, colour, marker in zip(states, COLOURS, MARKERS, strict=False):
        own = frames[frames["oxidation_state"] == state]
        for held_out, sets, said in (
            (False, ("train", "validation"), "state seen in training"),
            (False, ("none",), "no state of its training"),
            (True, ("test",), "held-out state"),
        ):
            part = own[own["set"].isin(sets)]
            if part.empty:
                continue
            panel.scatter(
                part["pc1"],
                part["pc2"],
                s=15 if held_out else 9,
                color=colour,
                marker=marker,
                alpha=0.9 if held_out else 0.3,
                edgecolors="black" if held_out else "none",
                linewidths=0.5 if held_out else 0,
                zorder=3 if held_out else 2,
                label=f"{redox}{state}+, {said}",
                rasterized=len(frames) > 500,
            )
    if path:
        _draw_path(panel, points[points["origin"] == "path"], states)
    panel.set(xticks=[], yticks=[])


def _draw_path(panel: Axes, path: pd.DataFrame, states: Sequence[int]) -> None:
    """Draw each redox atom of the relaxation as a line from its start to a star at its end."""
    for _, atom in path.groupby("atom"):
        steps = atom.sort_values("step")
        colour = COLOURS[list(states).index(int(steps["oxidation_state"].iloc[0]))]
        panel.plot(steps["pc1"], steps["pc2"], "-", color="black", lw=1.6, zorder=4)
        panel.plot(steps["pc1"], steps["pc2"], "-", color=colour, lw=0.8, zorder=5)
        panel.plot(
            steps["pc1"].iloc[-1:],
            steps["pc2"].iloc[-1:],
            "*",
            color=colour,
            mec="black",
            mew=0.5,
            ms=9,
            zorder=6,
            label="relaxation of the reference arrangement (star: end)",
        )


def _states(points: pd.DataFrame) -> list[int]:
    return sorted(int(state) for state in points["oxidation_state"].unique())


def _say(panel: Axes, text: str) -> None:
    panel.text(0.5, 0.5, fill(text, 24), transform=panel.transAxes, ha="center", va="center")
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)


def _legend(figure: Figure, panels: Sequence[Axes], columns: int) -> None:
    from matplotlib.lines import Line2D

    unique = legend_entries(panels)
    star = next((label for label in unique if "star" in label), None)
    if star is not None:
        unique[star] = Line2D([], [], color="0.3", marker="*", mec="black", mew=0.5, ms=9, lw=1)
    if unique:
        figure.legend(unique.values(), unique.keys(), loc="outside upper center", ncols=columns)


def _axis(name: str, explained: Any, network: str, index: int) -> str:
    return f"{name} ({100 * explained[network][index]:.0f} % of the variance)"


def _number(value: float | None, digits: int = 2) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def model_figure(points: pd.DataFrame, scores: dict[str, Any], stem: Path) -> None:
    """Draw ``pca.{svg,png}`` of one model: the untrained network, the trained one and the relaxation."""
    import matplotlib.pyplot as plt

    style()
    if points.empty:
        figure, panel = plt.subplots(figsize=(4.6, 2.4))
        _say(panel, f"{scores['id']}: no embeddings ({scores['status']})")
        save_figure(figure, stem)
        return
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.3))
    for panel, network in zip(axes, ("untrained", "trained"), strict=True):
        own = points[points["network"] == network]
        scatter_frames(panel, own, scores["redox"], path=network == "trained")
        suffix = "" if network == "trained" else "_untrained"
        silhouette, accuracy = (scores[f"{number}{suffix}"] for number in NUMBERS)
        panel.set(
            xlabel=_axis("PC1", scores["explained_variance"], network, 0),
            ylabel=_axis("PC2", scores["explained_variance"], network, 1),
        )
        title = network if scores["init"] != "pretrained" or network == "trained" else "shipped weights"
        panel.set_title(f"{title}: silhouette {_number(silhouette)}, accuracy {_number(accuracy)}")
    where = "held-out states" if scores["headline"] == "held_out" else "all states"
    end = scores["relaxation"]
    note = (
        f"{scores['id']}; numbers over {where}, full standardised features; relaxation of "
        f"{scores['reference_state']}, cell {end['cell']}: {end['status']} after {end['steps']} steps; "
        "axes of the two panels are not comparable"
    )
    figure.supxlabel(fill(note, 105), fontsize=SMALL, color="0.25")
    _legend(figure, list(axes), 3)
    save_figure(figure, stem)


def _read(folders: Sequence[Path]) -> tuple[pd.DataFrame, dict[str, Path]]:
    keys = (*IDENTITY, *NUMBERS, "headline", "reference_state")
    read = [read_document(Path(folder) / "scores.json", "embedding", keys) for folder in folders]
    rows, places = [], {}
    for folder, scores in zip(folders, over_the_same_states(read), strict=True):
        row = {name: scores[name] for name in (*IDENTITY, "headline")}
        for number in NUMBERS:
            row |= {name: scores[name] for name in (number, f"{number}_untrained")}
        for name in ("all", "held_out"):
            for suffix in ("", "_untrained"):
                values = (scores.get(f"by_set{suffix}") or {}).get(name) or {}
                for metric in ("silhouette", "accuracy", "chance"):
                    row[f"{metric}_{name}{suffix}"] = values.get(metric)
        row["reference_state"] = scores["reference_state"]
        rows.append(row)
        places[scores["id"]] = Path(folder)
    table = pd.DataFrame(rows)
    return table.sort_values(["model", "variant", "fold", "seed"], ignore_index=True), places


def _spread(values: pd.Series) -> str:
    known = values.dropna().astype(float)
    if known.empty:
        return "none"
    text = f"{known.mean():.2f}"
    return f"{text} ± {known.std(ddof=1):.2f}" if len(known) > 1 else text


def embedding_overview(dirs: Sequence[str | Path], out: str | Path) -> pd.DataFrame:
    """Draw all models in ``overview.{svg,png,csv}`` and ``overview_points.csv``; return the table.

    One panel per model and variant, the variants of a model side by side, without the charge label
    first. Points are those of each model's first fold and seed; numbers are means, with standard
    deviations over folds and seeds. Raises UserError if no folder is given or one has no scores.
    """
    import matplotlib.pyplot as plt

    out = Path(out)
    if not dirs:
        raise UserError("no embeddings to show; give the folder of one model or more")
    table, places = _read([Path(folder) for folder in dirs])
    style()
    order = variants_in(table["variant"])
    pairs = sorted(
        set(zip(table["model"], table["variant"], strict=True)),
        key=lambda pair: (pair[0], order.index(pair[1])),
    )
    shape = panel_shape(len(pairs), MOST_COLUMNS)
    size = (max(2.6 * shape[1] + 0.5, 5.6), 2.75 * shape[0] + 1.3)
    figure, axes = plt.subplots(*shape, figsize=size, squeeze=False)
    drawn = []
    for panel in list(axes.flat)[len(pairs) :]:
        panel.remove()
    for (model, variant), panel in zip(pairs, axes.flat, strict=False):
        group = table[(table["model"] == model) & (table["variant"] == variant)]
        panel.set_title(f"{model}, {_label_text(variant)}\n{_caption(group)}", fontsize=SMALL)
        shown = group[group["status"] == "ok"]
        if shown.empty:
            _say(panel, str(group["status"].iloc[0]))
            continue
        identity = str(shown["id"].iloc[0])
        points = read_table("embedding/points", places[identity]).drop(columns="embedding")
        points = points[points["network"] == "trained"]
        scatter_frames(panel, points, str(shown["redox"].iloc[0]), path=True)
        panel.set(xlabel="PC1", ylabel="PC2")
        drawn.append(points)
    over_all = ", ".join(dict.fromkeys(table.loc[table["headline"] == "all", "model"]))
    note = (
        "node embeddings that feed the energy, redox atoms only, coloured by the charge state in DFT; "
        f"numbers over held-out states{f', but over all of {over_all}' if over_all else ''}; "
        f"{NOT_COMPARABLE}; points: first fold and seed; s: silhouette, a: accuracy of a linear classifier "
        "cross-validated by state, in parentheses of the network before training (one that starts "
        "from scratch with a charge label separates by construction)"
    )
    figure.supxlabel(fill(note, int(13 * figure.get_figwidth())), fontsize=SMALL, color="0.25")
    _legend(figure, list(axes.flat), 1 if figure.get_figwidth() < 7 else 3)
    save_figure(figure, out / "overview")
    write_table("embedding/overview", table, out)
    write_csv(pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame(), out / "overview_points.csv")
    seal(out, "embedding-overview")
    return table


def _label_text(variant: str) -> str:
    """Return the variant and what it means for the label, for titles."""
    return f"{variant}\n({look_of(variant).label})"


def _caption(group: pd.DataFrame) -> str:
    """Return the numbers of one model and variant, followed by those of the untrained network."""
    lines = []
    for letter, number in zip("sa", NUMBERS, strict=True):
        lines.append(f"{letter} = {_spread(group[number])} ({_spread(group[f'{number}_untrained'])})")
    return ", ".join(lines)
