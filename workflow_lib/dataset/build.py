"""The dataset stage: one source of frames becomes a labelled, split and summarised frame table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from workflow_lib.dataset.assign import SetAside, assign, set_aside_table
from workflow_lib.dataset.figures import draw_composition, draw_coverage, draw_energy, draw_redox
from workflow_lib.dataset.settings import DatasetSettings
from workflow_lib.dataset.splits import make_splits, make_units
from workflow_lib.dataset.subset import describe_subset, in_subset, subset_is_full
from workflow_lib.dataset.summary import (
    composition_table,
    coverage_table,
    energy_table,
    histogram_table,
    site_table,
    summarise,
)
from workflow_lib.errors import UserError
from workflow_lib.foreign import ACCEPTED, UNSTATED, read_frames
from workflow_lib.frames import Frame, single_reference, with_labels, write_parquet
from workflow_lib.host import Host
from workflow_lib.io import sha256, write_csv, write_json
from workflow_lib.redox import RedoxRule

BIN_MOMENT = 0.02  # muB
BIN_CHARGE = 0.01  # e


def load_source(settings: DatasetSettings) -> list[Frame]:
    """Read the configured file and check that it can be a dataset at all.

    Frames of a file that states no level of theory take that of the configuration, which is where
    the user states it. Raises UserError for mixed or other levels, no forces anywhere, repeated
    frame ids, and no frame of the chemical subset.
    """
    frames = [
        with_labels(frame, energy_reference=settings.energy_reference)
        if frame.energy_reference == UNSTATED
        else frame
        for frame in read_frames(settings.path)
    ]
    stated = single_reference(frames, settings.path)
    if stated != settings.energy_reference:
        raise UserError(
            f"{settings.path} is at the level {stated!r}, dataset.energy_reference says "
            f"{settings.energy_reference!r}; set the key to the file's level"
        )
    if all(frame.forces is None for frame in frames):
        raise UserError(
            f"{settings.path} holds no forces in {len(frames)} frames; accepted names: "
            f"{', '.join(ACCEPTED['forces'])}"
        )
    name, count = Counter(frame.frame_id for frame in frames).most_common(1)[0]
    if count > 1:
        raise UserError(f"{settings.path}: frame_id {name!r} stands {count} times; give each frame its own")
    if not any(in_subset(frame.numbers, settings) for frame in frames):
        raise UserError(
            f"no frame of {settings.path} passes dataset.subset_elements and required_elements "
            f"({describe_subset(settings)}); change the filter or the file"
        )
    return frames


def _warnings(frames: Sequence[Frame], settings: DatasetSettings) -> list[str]:
    """What a reader of any result of this dataset must know."""
    found = []
    if subset_is_full(frames, settings):
        found.append("The full dataset and the chemical subset are the same frames: one chemistry only.")
    if any(frame.stress is not None and not frame.stress_converged for frame in frames):
        found.append(
            "The stress is not converged with the cut-off: do not train on it or relax cells with it."
        )
    if any(frame.forces is None for frame in frames):
        found.append(f"{sum(frame.forces is None for frame in frames)} frames have no forces.")
    return found


def _check_left(frames: Sequence[Frame], aside: Sequence[SetAside], settings: DatasetSettings) -> None:
    if any(in_subset(frame.numbers, settings) for frame in frames):
        return
    category, count = Counter(item.category for item in aside).most_common(1)[0]
    example = next(item for item in aside if item.category == category)
    raise UserError(
        f"all {len(aside)} frames of the chemical subset of {settings.path} were set aside, {count} "
        f"of them for: {category} ({example.frame.frame_id}: {example.reason}); check the moment "
        "windows of redox.states"
    )


def build_dataset(
    *, settings: DatasetSettings, rule: RedoxRule, host: Host | None, seed: int, out: Path
) -> None:
    """Make the dataset stage's files in ``out``.

    ``frames.parquet`` (kept frames with charge states and realised arrangement),
    ``set_aside.csv``, ``splits.json``, ``summary.json``, and the figures ``composition``,
    ``redox``, ``energy`` and ``coverage``, each as SVG, PNG and CSV. Everything is checked and
    computed before the first file is written. Raises UserError, see :func:`load_source`,
    ``splits.make_splits`` and ``foreign.read_frames``.
    """
    frames, aside = assign(load_source(settings), rule, host, settings)
    _check_left(frames, aside, settings)
    splits = make_splits(make_units(frames, host, settings), settings, seed)
    splits["subset_is_full"] = subset_is_full(frames, settings)
    summary = summarise(
        frames,
        aside,
        splits,
        settings,
        source_sha256=sha256(settings.path),
        warnings=_warnings(frames, settings),
    )
    compositions, coverage = composition_table(frames), coverage_table(frames)
    energies = energy_table(frames)
    histogram = histogram_table(
        site_table(frames, aside, rule), {"moment_mub": BIN_MOMENT, "charge_e": BIN_CHARGE}
    )
    out = Path(out)
    write_parquet(frames, out / "frames.parquet")
    write_csv(set_aside_table(aside), out / "set_aside.csv")
    write_json(out / "splits.json", splits)
    for name, table in (
        ("composition", compositions),
        ("redox", histogram),
        ("energy", energies),
        ("coverage", coverage),
    ):
        write_csv(table, out / f"{name}.csv")
    draw_composition(compositions, out / "composition")
    draw_redox(histogram, rule, settings.energy_reference, out / "redox")
    draw_energy(energies, out / "energy")
    draw_coverage(coverage, out / "coverage")
    write_json(out / "summary.json", summary)
