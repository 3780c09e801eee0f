"""Charts of energies: hull, voltage, search, charge orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from workflow_lib.core.digits import sensible
from workflow_lib.core.plotting import (
    COLOUR_DFT,
    LEAST_ENERGY,
    LEAST_VOLTAGE,
    SEARCH_METHODS,
    window_of,
    x_label,
)
from workflow_lib.lattice.arrangement import StateKey, mobile_of
from workflow_lib.models.identity import look_of, variants_in
from workflow_lib.results_schema import BEYOND, DFT, HEADLINE, SEARCH
from workflow_lib.stages.report.charts import (
    Chart,
    Trace,
    groups,
    hover_text,
    line,
    look,
    naming,
    points,
    records,
    text,
    view,
)
from workflow_lib.stages.report.structures import Structures, found_key_of, state_key_of

if TYPE_CHECKING:
    from workflow_lib.results import Run

FORMATION = "formation energy (meV per formula unit)"
SHIFT = 0.012
"""Shift in x between the variants of a model, so that their points do not cover each other."""
METHODS = {"ga": "circle", "random": "x", "screened": "diamond-tall-open", "enumeration": "cross-thin-open"}
"""Symbols of the ways to search."""

LARGER_TOO = ", with its larger cells"

Colours = Mapping[str, str]


def _state_hover(row: Mapping[str, Any], source: str) -> str:
    known = StateKey.parse(row["state_key"])
    seen = row.get("seen")
    status = "" if pd.isna(seen) else "seen in training" if seen else "not seen in training"
    degeneracy = row.get("degeneracy")
    return hover_text(
        f"<b>{known.mobile}{known.ions} {known.order or ''}</b> ({known.cell} cell)",
        text(source),
        f"formation energy {row['formation_mev_fu']:.1f} meV/f.u.",
        f"{row['above_hull_mev_fu']:.1f} above the hull" if pd.notna(row.get("above_hull_mev_fu")) else "",
        "" if pd.isna(degeneracy) else f"degeneracy {int(degeneracy)}",
        "" if source == DFT else status,
    )


def _dft(formation: pd.DataFrame) -> pd.DataFrame:
    """Return the states of DFT that may enter the hull; the others have no formation energy."""
    return formation[(formation["id"] == DFT) & formation["formation_mev_fu"].notna()]


def _states(
    table: pd.DataFrame,
    name: str,
    structures: Structures,
    shift: float = 0,
    *,
    key_of: Callable[[str], str] = state_key_of,
    **style: Any,
) -> Trace:
    """Return the points of states of one source or of several; ``key_of`` gives the key of a structure."""
    rows = records(table)
    keys = [(key_of(row["state_key"]), row["id"]) for row in rows]
    return points(
        *(table["x"] + shift, table["formation_mev_fu"]),
        name=name,
        hover=[_state_hover(row, row["id"]) for row in rows],
        structures=[key if structures.has(*key) else None for key in keys],
        **style,
    )


def hull_chart(run: Run, structures: Structures, colours: Colours) -> Chart:
    """Return the hull: DFT and the variants of one model."""
    formation, hulls = run.table("thermodynamics/formation"), run.table("thermodynamics/hull")
    dft = _dft(formation[~formation["protocol"].isin(BEYOND)])
    models = formation[(formation["protocol"] == HEADLINE) & formation["formation_mev_fu"].notna()]
    hulls = hulls[hulls["scope"] == "enumerated"]
    anchor = dft["formation_mev_fu"].to_numpy(float)
    views = {}
    for model in dict.fromkeys(models["model"]):
        own_hull = hulls[hulls["id"] == DFT]
        traces = [
            line(
                own_hull["x"],
                own_hull["formation_mev_fu"],
                name="hull, DFT",
                colour=COLOUR_DFT,
                hoverinfo="skip",
            ),
            _states(dft, "DFT", structures, colour=COLOUR_DFT, symbol="line-ew-open", size=16),
        ]
        mine = models[models["model"] == model]
        for place, variant in enumerate(variants_in(mine["variant"])):
            group, style = mine[mine["variant"] == variant], look(colours, model, variant)
            opacity = _opacity(group["seen"])
            label = look_of(variant).label
            traces.append(
                _states(
                    *(group, label, structures, SHIFT * (place + 1)),
                    colour=style["colour"],
                    symbol=style["symbol"],
                    opacity=opacity,
                )
            )
            sources = list(dict.fromkeys(group["id"]))
            alike = all(_corners(hulls[hulls["id"] == source]) == _corners(own_hull) for source in sources)
            for number, source in enumerate(sources):
                own = hulls[hulls["id"] == source]
                traces.append(
                    line(
                        *(own["x"], own["formation_mev_fu"]),
                        name=f"hull, {label}{' (that of DFT)' if alike else ''}",
                        colour=style["colour"],
                        dash=style["dash"],
                        width=1.5,
                        hoverinfo="skip",
                        showlegend=number == 0,
                    )
                )
        window = window_of(np.append(mine["formation_mev_fu"], anchor), anchor, LEAST_ENERGY)
        views[model] = view(traces, x_label(mobile_of(formation["state_key"])), FORMATION, window=window)
    return Chart(
        "hull",
        "Formation energies and convex hull",
        "Formation energy of every charge-ordered state against composition, DFT (bars) and one model "
        "without and with the label, each relative to its own end members, and the convex hulls. Pale: "
        "the model has seen the state in training. The points of the model are shifted a little to the "
        "right.",
        views,
    )


def _opacity(seen: pd.Series) -> list[float]:
    """Return the opacity of each state: pale if it trained; one that DFT alone knows is not."""
    return [0.4 if trained else 1.0 for trained in seen.fillna(False)]


def _corners(hull: pd.DataFrame) -> list[list[float]]:
    """Return the vertices of a hull in order, to 0.1 meV."""
    return (
        hull.sort_values("x")[["x", "formation_mev_fu"]].round({"formation_mev_fu": 1}).to_numpy().tolist()
    )


def voltage_chart(run: Run, colours: Colours) -> Chart | None:
    """Return the voltage profiles of DFT and of the variants of one model; None without any of DFT."""
    voltages = run.table("thermodynamics/voltage")
    dft, models = voltages[voltages["id"] == DFT], voltages[voltages["id"] != DFT]
    if dft.empty:  # no metal at its level; that of a potential from elsewhere may have one
        return None
    mobile = mobile_of(run.table("thermodynamics/formation")["state_key"])
    anchor = dft["voltage_v"].to_numpy(float)
    views = {}
    for model in dict.fromkeys(models["model"]):
        mine = models[models["model"] == model]
        traces = [
            _steps(own, f"DFT{LARGER_TOO if scope == 'searched' else ''}", colour=COLOUR_DFT, width=width)
            for (scope, own), width in zip(dft.groupby("scope"), (3, 1), strict=False)
        ]
        for (source, scope), own in mine.groupby(["id", "scope"], sort=False):
            variant = own["variant"].iloc[0]
            style = look(colours, model, variant)
            searched = scope == "searched"
            other = mine[(mine["id"] == source) & (mine["scope"] != scope)]
            same = _profile(own) == _profile(other)  # one curve would hide the other
            if same and searched:
                continue
            name = naming(mine, variant, source)
            name += ", with its search" if searched else ", with its search too" if same else ""
            traces.append(
                _steps(own, name, colour=style["colour"], dash=style["dash"], width=1 if searched else 2)
            )
        window = window_of(np.append(mine["voltage_v"], anchor), anchor, LEAST_VOLTAGE)
        views[model] = view(
            traces,
            x_label(mobile),
            f"voltage (V against {mobile} metal)",
            window=window,
            xaxis={"range": [0, 1]},
        )
    return Chart(
        "voltage",
        "Open-circuit voltage",
        "Voltage against composition along the convex hull, DFT and one model without and with the "
        f"label. The energy of {mobile} metal is the entry of thermodynamics.metals at the level of theory "
        "of each curve: one for DFT and what was trained on it, another for a potential from elsewhere. "
        "Thin: with what the model's search found.",
        views,
    )


def _profile(own: pd.DataFrame) -> list[list[float]]:
    """Return the steps of a voltage profile in order, to 0.1 mV."""
    return own.sort_values("x_low")[["x_low", "x_high", "voltage_v"]].round(4).to_numpy().tolist()


def _steps(own: pd.DataFrame, name: str, **style: Any) -> Trace:
    """Return a voltage profile: constant between the compositions of two vertices of the hull."""
    own = own.sort_values("x_low")
    x = np.column_stack([own["x_low"], own["x_high"]]).ravel()
    trace = line(x, np.repeat(own["voltage_v"].to_numpy(float), 2), name=name, **style)
    return trace | {"hovertemplate": "x = %{x}: %{y:.3f} V<extra>%{fullData.name}</extra>"}


def found_chart(run: Run, structures: Structures, colours: Colours) -> Chart | None:
    """Return what the searches of each model found; None if there was no search."""
    formation, hulls = run.table("thermodynamics/formation"), run.table("thermodynamics/hull")
    dft = _dft(formation)
    found = formation[(formation["protocol"] == SEARCH) & formation["formation_mev_fu"].notna()]
    if found.empty:
        return None
    anchor = dft["formation_mev_fu"].to_numpy(float)
    views = {}
    for source, mine in groups(found, "id"):
        style = look(colours, mine["model"].iloc[0], mine["variant"].iloc[0])
        own = hulls[(hulls["id"] == source) & (hulls["scope"] == "searched")]
        traces = [
            line(
                own["x"],
                own["formation_mev_fu"],
                name="hull of these and of charge orders",
                colour=style["colour"],
                dash="dot",
                hoverinfo="skip",
            ),
            _states(dft, "DFT", structures, -SHIFT, colour=COLOUR_DFT, symbol="line-ew-open", size=16),
        ]
        cells = sorted(set(mine["cell"]), key=lambda cell: (len(cell), cell))
        for method, symbol in METHODS.items():
            for place, cell in enumerate(cells):
                part = mine[(mine["method"] == method) & (mine["cell"] == cell)]
                if len(part):
                    traces.append(
                        _states(
                            *(part, f"{SEARCH_METHODS[method][0]}, {cell} cell", structures),
                            key_of=found_key_of,
                            colour=style["colour"],
                            symbol=symbol,
                            size=7 + 3 * place,
                            opacity=0.75,
                        )
                    )
        # The hull lies below what the search found if states of the charge-order stage are lower.
        drawn = np.concatenate([mine["formation_mev_fu"], own["formation_mev_fu"], anchor])
        window = window_of(drawn, anchor, LEAST_ENERGY)
        views[source] = view(traces, x_label(mobile_of(formation["state_key"])), FORMATION, window=window)
    return Chart(
        "found",
        "What the searches found",
        "Formation energy of every arrangement that the search of one model relaxed. Dotted: the convex "
        "hull of these and of the charge-ordered states of the small cell, which the model relaxed from "
        "distorted starts and which are not drawn; bars: DFT, larger cells included. The structures of the "
        "lowest arrangement of each composition can be opened.",
        views,
    )


def orders_chart(run: Run, structures: Structures, colours: Colours) -> Chart:
    """Return formation energies of the charge-ordered states, model against DFT."""
    states = run.table("charge_order/states")
    states = states[(states["protocol"] == HEADLINE) & states["x"].between(0, 1, inclusive="neither")]
    states = states[states["formation_mev_fu"].notna()]
    formation = run.table("thermodynamics/formation").set_index(["id", "state_key", "protocol"])
    above = formation["above_hull_mev_fu"].groupby(level=[0, 1, 2]).first()
    states["above_hull_mev_fu"] = [
        above.get((source, key, HEADLINE))
        for source, key in zip(states["id"], states["state_key"], strict=True)
    ]
    ends = [states["dft_formation_mev_fu"].min() - 10, states["dft_formation_mev_fu"].max() + 10]
    anchor = states["dft_formation_mev_fu"].to_numpy(float)
    views = {}
    for model, mine in groups(states, "model"):
        traces = [line(ends, ends, name="as DFT", colour=COLOUR_DFT, width=1, hoverinfo="skip")]
        for variant in variants_in(mine["variant"]):
            group = mine[mine["variant"] == variant]
            style = look(colours, model, variant)
            trace = _states(
                *(group, look_of(variant).label, structures),
                colour=style["colour"],
                symbol=style["symbol"],
                opacity=_opacity(group["seen"]),
            )
            trace["x"] = points(group["dft_formation_mev_fu"], [0], name="", colour="")["x"]
            traces.append(trace)
        window = window_of(np.append(mine["formation_mev_fu"], anchor), anchor, LEAST_ENERGY)
        views[model] = view(traces, f"DFT {FORMATION}", f"model {FORMATION}", window=window)
    return Chart(
        "orders",
        "Charge-ordered states, model against DFT",
        "Formation energies of the states between the end members, relaxed by the model itself from a "
        "distorted start, against those of DFT. Pale: the model has seen the state in training.",
        views,
    )


def identical_chart(run: Run, colours: Colours) -> Chart:
    """Return the energies of several charge orders on the same atoms, model against DFT."""
    table = run.table("charge_order/identical").dropna(subset=["model_mev_fu"])
    scores = run.table("charge_order/identical_scores").set_index("id")
    ends = [table["dft_mev_fu"].min() * 1.1, table["dft_mev_fu"].max() * 1.1]
    anchor = table["dft_mev_fu"].to_numpy(float)
    views = {}
    for model, mine in groups(table, "model"):
        traces = [
            line(ends, ends, name="as DFT", colour=COLOUR_DFT, width=1, hoverinfo="skip"),
            line(
                ends,
                [0, 0],
                name="blind to the order",
                colour="#5A5A5A",
                dash="dot",
                width=1,
                hoverinfo="skip",
            ),
        ]
        for source, group in groups(mine, "id"):
            variant = str(group["variant"].iloc[0])
            style = look(colours, model, variant)
            error = scores["mae_mev_fu"].get(source)
            hover = [
                hover_text(
                    f"<b>{text(StateKey.parse(row['state_key']).order)}</b> on the atoms of "
                    f"{text(row['atoms'])}",
                    text(source),
                    f"DFT {row['dft_mev_fu']:.1f}, model {row['model_mev_fu']:.1f} meV/f.u.",
                    f"set of the relaxed state: {text(row['role'])}",
                )
                for row in records(group)
            ]
            name = f"{source}" + ("" if pd.isna(error) else f" (error of pairs {sensible(error)} meV/f.u.)")
            traces.append(
                points(
                    *(group["dft_mev_fu"], group["model_mev_fu"]),
                    name=name,
                    colour=style["colour"],
                    symbol=style["symbol"],
                    size=9,
                    hover=hover,
                )
            )
        window = window_of(np.append(mine["model_mev_fu"], anchor), anchor, 20.0)
        views[model] = view(
            *(
                traces,
                "DFT, relative to the mean on the same atoms (meV per formula unit)",
                "model (meV per formula unit)",
            ),
            window=window,
        )
    blind = scores["blind_mae_mev_fu"].max()
    return Chart(
        "identical",
        "Charge orders on identical atoms",
        "Half way between two relaxed charge orders DFT computes either order on the same atoms. A "
        f"model without the label gives both one energy (dotted line) and errs by {sensible(blind)} meV "
        "per formula unit, whatever it learnt.",
        views,
    )
