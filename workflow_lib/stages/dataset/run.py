"""The dataset stage: one source of frames becomes a labelled, split and summarised frame table.

The frames are read twice and never held: once for the index on which everything is decided, once to
write those that are kept.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from workflow_lib.core.elements import SYMBOLS, atomic_number
from workflow_lib.core.errors import UserError
from workflow_lib.core.io import sha256, write_csv, write_json
from workflow_lib.core.progress import say
from workflow_lib.frames.labels import ACCEPTED
from workflow_lib.frames.subset import describe_subset
from workflow_lib.frames.table import FrameBatch, frame_writer, iter_parquet
from workflow_lib.lattice.arrangement import UNIT
from workflow_lib.lattice.counting import count_distinct
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.results_reading import seal
from workflow_lib.stages.dataset.assign import category
from workflow_lib.stages.dataset.decide import decide, set_aside_table
from workflow_lib.stages.dataset.element_figure import draw_elements
from workflow_lib.stages.dataset.element_table import element_table
from workflow_lib.stages.dataset.figures import (
    draw_charge_states,
    draw_composition,
    draw_coverage,
    draw_energy,
    draw_redox,
)
from workflow_lib.stages.dataset.index import Index, make_index
from workflow_lib.stages.dataset.settings import DatasetSettings
from workflow_lib.stages.dataset.sites import SiteHistograms, mean_charges
from workflow_lib.stages.dataset.source import Source, open_source
from workflow_lib.stages.dataset.splits import make_splits, make_units
from workflow_lib.stages.dataset.summary import (
    charge_state_table,
    composition_table,
    coverage_table,
    energy_table,
    summarise,
)
from workflow_lib.stages.dataset.work import work_warning

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)
LEAST_COMPOSITIONS = 2
"""Compositions with frames that fit the host where the others are taken for another polymorph. A host of
the wrong element fits where it is empty, a host of the wrong structure nowhere."""


def _check_source(index: Index, settings: DatasetSettings) -> None:
    """Raise UserError if the frames cannot form a dataset at all."""
    rows = index.rows
    if not rows["forces"].any():
        raise UserError(
            f"{settings.path} holds no forces in {len(rows)} frames; accepted names: "
            f"{', '.join(ACCEPTED['forces'])}"
        )
    if not rows["frame_id"].is_unique:
        name, count = Counter(rows["frame_id"]).most_common(1)[0]
        raise UserError(f"{settings.path}: frame_id {name!r} occurs {count} times; give each frame its own")
    if not rows["subset"].any():
        raise UserError(
            f"no frame of {settings.path} passes dataset.subset_elements and required_elements "
            f"({describe_subset(settings)}); change the filter or the file"
        )


def _check_host(index: Index, host: Host, settings: DatasetSettings) -> None:
    """Say what the host is and which frames do not fit; raise UserError if it is the wrong host.

    Frames of the host's chemistry are the labelled frames with the composition of its framework and at
    most one other element, its mobile ion or another in its place. The host is wrong if most of them fit
    no site; frames of another crystal do not count where the host fits several compositions.
    """
    symmetry = len(host.permutations(UNIT)[0])
    states = sum(count_distinct(host, UNIT, n, charges=True) for n in host.compositions(UNIT))
    print(
        f"host {host.name}: {host.space_group}, {symmetry} permutations of its sites, {states} "
        "charge-ordered states in its cell",
        flush=True,
    )
    rows = index.rows
    misfits = rows["misfit"].dropna()
    if len(misfits):
        other = int(rows["foreign"].sum())
        _log.warning(
            "%d of %d frames of the host's composition fit no site, such as %s: %s; %d of them are another "
            "crystal",
            len(misfits), len(misfits) + int(rows["state_key"].notna().sum()),
            rows.loc[misfits.index[0], "frame_id"], misfits.iloc[0], other,
        )  # fmt: skip
    if settings.split_by not in ("state", "ions"):
        return
    alike = np.array([_framework_of(host, numbers) for numbers, _ in index.contents], dtype=bool)
    own = rows[rows["labelled"] & alike[rows["content"]]]
    fits = own["state_key"].notna()
    if own.loc[fits, "composition"].nunique() >= LEAST_COMPOSITIONS:
        own = own[~own["foreign"]]  # another polymorph beside the host, however many frames it has
    missed = own[own["state_key"].isna()]
    if 2 * len(missed) > len(own):
        why = missed["misfit"].dropna()
        first = missed.loc[why.index[0]] if len(why) else missed.iloc[0]
        reason = first["misfit"] or f"its composition {first['composition']} is not the host's"
        raise UserError(
            f"{len(missed)} of {len(own)} frames of {settings.path} with the framework elements of "
            f"the host {host.name} fit no site of it ({first['frame_id']}: {reason}); set `host` to the "
            "crystal of these frames"
        )


def _framework_of(host: Host, numbers: np.ndarray) -> bool:
    """Return whether these atoms ``[n]`` are whole frameworks of the host with at most one element more."""
    mobile = atomic_number(host.mobile)
    wanted = Counter(z for z in host.numbers.tolist() if z != mobile)
    found = Counter(numbers.tolist())
    copies = {found[z] / count for z, count in wanted.items()}
    whole = len(copies) == 1 and copies.pop() >= 1 / host.formula_units
    return whole and len(set(found) - set(wanted)) <= 1


def _check_left(index: Index, settings: DatasetSettings) -> None:
    """Raise UserError if no frame of the chemical subset is left."""
    if index.used()["subset"].any():
        return
    aside = index.rows[~index.kept]
    kinds = aside["reason"].map(category)
    most, count = Counter(kinds).most_common(1)[0]
    example = aside[kinds == most].iloc[0]
    remedy = "check the moment windows of redox.states"
    if most == "no moments":
        remedy = f"moments are read as {', '.join(ACCEPTED['magmoms'])}; initial ones are a guess, not read"
    raise UserError(
        f"all {len(aside)} frames of the chemical subset of {settings.path} were set aside, {count} "
        f"of them for: {most} ({example['frame_id']}: {example['reason']}); {remedy}"
    )


def _say_set_aside(index: Index) -> None:
    """Say how many frames were set aside, and for what, if any were."""
    aside = index.rows[~index.kept]
    kinds = Counter(aside["reason"].map(category))
    if kinds:
        parts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        first = aside.iloc[0]
        say(f"{len(aside)} of {len(index.rows)} frames set aside: {parts}")
        say(f"the first is {first['frame_id']}: {first['reason']}")


def _mixed_orders(index: Index, host: Host | None) -> list[str]:
    """Return a warning for each chemistry whose frames show several magnetic orders.

    A chemistry is all compositions of one framework: end members in one order beside intermediates in
    another shift every formation energy. Frames without magnetic atoms, or whose order is unknown, do not
    count.
    """
    rows = index.used()
    mobile = {atomic_number(host.mobile)} if host is not None else set()
    frameworks = [
        "-".join(SYMBOLS[z] for z in sorted(set(numbers.tolist()) - mobile))
        for numbers, _ in index.contents
    ]
    shown = rows[rows["magnetic_order"].isin(["FM", "AFM", "FiM"])]
    found = []
    for name, own in shown.groupby(np.array(frameworks, dtype=object)[shown["content"]]):
        counts = own["magnetic_order"].value_counts()
        if len(counts) < 2:
            continue
        told = ", ".join(
            f"{order} {count} frames of {', '.join(compositions[:4])}{' ...' * (len(compositions) > 4)}"
            for order, count in counts.items()
            for compositions in [sorted(own.loc[own["magnetic_order"] == order, "composition"].unique())]
        )
        found.append(
            f"Magnetic orders are mixed in {name} ({told}): their energies differ by tens of meV per "
            "formula unit at one level of theory, and models train on all of them."
        )
    return found


def _warnings(index: Index, host: Host | None) -> list[str]:
    """Return findings that a reader of any result of this dataset must know."""
    rows = index.used()
    found = _mixed_orders(index, host)
    if rows["subset"].all():
        found.append("The full dataset and the chemical subset are the same frames: one chemistry only.")
    if (rows["stress"] & ~rows["stress_converged"]).any():
        found.append(
            "The stress is not converged with the cut-off: do not train on it or relax cells with it."
        )
    if not rows["forces"].all():
        found.append(f"{(~rows['forces']).sum()} frames have no forces.")
    return found


def write_labelled(source: Source, index: Index, rule: RedoxRule, path: Path) -> SiteHistograms:
    """Write the frames that are used, with charge states and keys; return the histograms of their sites.

    The sites of frames that are set aside are counted too, as such. Raises UserError if the file
    cannot be written.
    """
    import pyarrow as pa

    sites = SiteHistograms(rule, mean_charges(index.used()))
    kept, labelled = index.kept, index.rows["labelled"].to_numpy()
    texts = {name: index.rows[name].to_numpy() for name in ("state_key", "group")}
    units = index.rows["formula_units"].to_numpy()
    texts["energy_reference"] = np.full(len(kept), source.energy_reference, dtype=object)
    with (
        tqdm(total=source.count, desc="writing", unit="frame", leave=False, disable=None) as bar,
        frame_writer(path) as writer,
    ):
        for batch in source.batches():
            mine = slice(batch.first, batch.first + len(batch))
            states = index.states[index.offsets[mine.start] : index.offsets[mine.stop]]
            sites.add(batch, states, kept[mine] & labelled[mine])
            own = {name: column[mine] for name, column in texts.items()}
            table = _with_labels(batch, states, labelled[mine], own, units[mine])
            writer.write_table(table.filter(pa.array(kept[mine])))
            bar.update(len(batch))
    return sites


def _with_labels(
    batch: FrameBatch,
    states: np.ndarray,
    labelled: np.ndarray,
    texts: Mapping[str, np.ndarray],
    units: np.ndarray,
) -> pa.Table:
    """Return the rows of a batch with charge states ``[N]`` (where ``labelled``), texts, formula units."""
    import pyarrow as pa

    table = batch.table
    lengths = np.where(labelled, batch.sizes, 0)
    column = pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
        pa.array(states[labelled[batch.owner]].astype(np.int16)),
        type=table.schema.field("oxidation_states").type,
        mask=pa.array(~labelled),
    )
    counts = pa.array(units, type=table.schema.field("formula_units").type)
    changes: dict[str, Any] = {"oxidation_states": column, "formula_units": counts}
    changes |= {name: pa.array(values, type=pa.string()) for name, values in texts.items()}
    for name, values in changes.items():
        table = table.set_column(table.column_names.index(name), table.schema.field(name), values)
    return table


def build_dataset(
    *, settings: DatasetSettings, rule: RedoxRule, host: Host | None, seed: int, out: Path
) -> None:
    """Make the dataset stage's files in ``out``.

    ``frames.parquet`` (kept frames with charge states and realised arrangement),
    ``set_aside.csv``, ``splits.json``, ``summary.json``, and the figures ``composition``, ``redox``,
    ``energy``, ``coverage``, ``charge_states`` and ``elements``, each as SVG, PNG and CSV. Everything
    is checked and decided before the first file is written. Raises UserError, see
    ``source.open_source``, ``splits.make_splits`` and ``frames.check_frame``.
    """
    source = open_source(settings)
    index = make_index(source, rule, host, settings)
    _check_source(index, settings)
    if host is not None:
        _check_host(index, host, settings)
    index = decide(index, source, settings)
    _check_left(index, settings)
    _say_set_aside(index)
    splits = make_splits(make_units(index.light(), host, settings), settings, seed)
    splits = replace(splits, subset_is_full=bool(index.used()["subset"].all()))
    tables = {
        "composition": composition_table(index),
        "energy": energy_table(index),
        "coverage": coverage_table(index),
        "charge_states": charge_state_table(index),
    }
    warnings = _warnings(index, host)
    out = Path(out)
    sites = write_labelled(source, index, rule, out / "frames.parquet")
    if told := work_warning(chain.from_iterable(iter_parquet(out / "frames.parquet"))):
        warnings.append(told)
    for line in warnings:
        _log.warning("%s", line)
    tables["redox"] = sites.table()
    tables["elements"] = element_table(lambda: iter_parquet(out / "frames.parquet"))
    write_csv(set_aside_table(index), out / "set_aside.csv")
    splits.save(out / "splits.json")
    for name, table in tables.items():
        write_csv(table, out / f"{name}.csv")
    draw_composition(tables["composition"], out / "composition")
    draw_redox(tables["redox"], rule, settings.energy_reference, sites.summary(), out / "redox")
    draw_energy(tables["energy"], out / "energy")
    draw_coverage(tables["coverage"], out / "coverage")
    draw_charge_states(tables["charge_states"], out / "charge_states")
    draw_elements(tables["elements"], out / "elements")
    summary = summarise(
        index,
        splits,
        settings,
        source_sha256=sha256(settings.path),
        moments_and_charges=sites.summary(),
        warnings=warnings,
    )
    write_json(out / "summary.json", summary)
    seal(out, "dataset")
