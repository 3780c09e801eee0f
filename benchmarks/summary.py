"""From repetitions to the numbers that are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any, Literal

from benchmarks.cases import Run

Side = Literal["ours", "peer"]
SIDES: tuple[Side, ...] = ("ours", "peer")
REQUIRED_RATIO = 0.95
"""Peer's seconds per epoch over ours: at least this."""
ALLOWED_ERROR = 1.1
"""Our validation error over the peer's: at most this."""
SAME_START = 0.01
"""Relative difference of the errors before training. Both start from the same weights, so that only
rounding is left (single precision, and CHGNet's to 1e-6 eV)."""
ERRORS = {"energy_mae_mev_atom": "energy_mae", "force_mae_mev_a": "force_mae"}


@dataclass(slots=True, kw_only=True)
class Pair:
    """One repetition: both sides, one after the other, from the same seed.

    ``load``: the machine's load average before each side ran; ``judged``: whether it is long
    enough for its validation errors to count.
    """

    repetition: int
    seed: int
    epochs: int
    judged: bool
    ours: Run
    peer: Run
    load: dict[str, float]

    def run(self, side: Side) -> Run:
        """Return the run of a side."""
        return self.ours if side == "ours" else self.peer

    @property
    def ratio(self) -> float:
        """Wall time of an epoch, peer over ours."""
        return median(self.peer.seconds) / median(self.ours.seconds)

    @property
    def cpu_ratio(self) -> float:
        """Processor time of an epoch, peer over ours."""
        return median(self.peer.cpu_seconds) / median(self.ours.cpu_seconds)


def check(pair: Pair) -> None:
    """Raise RuntimeError unless both sides trained the same network on the same labels from one start."""
    ours, peer = pair.ours, pair.peer
    if ours.labels != peer.labels:
        raise RuntimeError(f"labels used by an epoch differ: ours {ours.labels}, peer {peer.labels}")
    if ours.parameters != peer.parameters:
        raise RuntimeError(f"parameters differ: ours {ours.parameters}, peer {peer.parameters}")
    for name in ("start_energy_mae", "start_force_mae"):
        a, b = getattr(ours, name), getattr(peer, name)
        if not abs(a - b) <= SAME_START * b:  # not-a-number fails too
            raise RuntimeError(f"{name} differs before the first step: ours {a:.5g}, peer {b:.5g}")


def summarise(family: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the line of a family.

    ``ratio`` is the median over the repetitions of peer's over our seconds per epoch (each the
    median over the epochs of the repetition), with the lowest and highest; errors are means over
    the seeds of the judged repetitions.
    """
    if not pairs:
        raise ValueError("no repetition to summarise")
    ratios = sorted(pair.ratio for pair in pairs)
    judged = [pair for pair in pairs if pair.judged]
    validation: dict[str, Any] = {"seeds": len(judged), "epochs": max(pair.epochs for pair in pairs)}
    for name, attribute in ERRORS.items():
        if judged:
            mean = {side: fmean(getattr(pair.run(side), attribute) for pair in judged) for side in SIDES}
            validation[name] = {**_rounded(mean), "ours_over_peer": round(mean["ours"] / mean["peer"], 3)}
    ratio = median(ratios)
    as_good = (
        all(validation[name]["ours_over_peer"] <= ALLOWED_ERROR for name in ERRORS) if judged else None
    )
    return {
        "name": f"training/{family}",
        "ratio": round(ratio, 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
        "cpu_ratio": round(median(pair.cpu_ratio for pair in pairs), 3),
        "our_s_per_epoch": round(median(median(pair.ours.seconds) for pair in pairs), 4),
        "peer_s_per_epoch": round(median(median(pair.peer.seconds) for pair in pairs), 4),
        "validation": validation,
        "repetitions": len(pairs),
        "fast_enough": ratio >= REQUIRED_RATIO,
        "as_accurate": as_good,
        "load_max": round(max(max(pair.load.values()) for pair in pairs), 2),
    }


def _rounded(values: dict[Side, float]) -> dict[str, float]:
    return {side: round(value, 3) for side, value in values.items()}


def rows(family: str, pair: Pair) -> list[dict[str, Any]]:
    """Return two rows of the table of runs."""
    return [
        {
            **{"family": family, "side": side, "repetition": pair.repetition, "seed": pair.seed},
            "epochs": pair.epochs,
            "s_per_epoch": median(pair.run(side).seconds),
            "cpu_s_per_epoch": median(pair.run(side).cpu_seconds),
            "judged": pair.judged,
            **{name: getattr(pair.run(side), attribute) for name, attribute in ERRORS.items()},
            "parameters": pair.run(side).parameters,
            **{f"labels_{label}": count for label, count in pair.run(side).labels.items()},
            "load": pair.load[side],
        }
        for side in SIDES
    ]


def markdown(lines: Sequence[dict[str, Any]]) -> str:
    """Return the lines as a table for docs/speed.md."""
    header = ("family", "ours, s/epoch", "upstream, s/epoch", "ratio (range)", "CPU ratio")
    errors = ("energy MAE, meV/atom: ours / upstream", "force MAE, meV/A: ours / upstream")
    table = ["| " + " | ".join((*header, *errors)) + " |", "|---" * (len(header) + len(errors)) + "|"]
    for line in lines:
        cells = [
            line["name"].rpartition("/")[2],
            f"{line['our_s_per_epoch']:.2f}",
            f"{line['peer_s_per_epoch']:.2f}",
            f"**{line['ratio']:.2f}** ({line['ratio_low']:.2f} to {line['ratio_high']:.2f})",
            f"{line['cpu_ratio']:.2f}",
        ]
        for name in ERRORS:
            found = line["validation"].get(name)
            cells.append(
                f"{found['ours']:.2f} / {found['peer']:.2f} = {found['ours_over_peer']:.2f}"
                if found
                else ""
            )
        table.append("| " + " | ".join(cells) + " |")
    return "\n".join(table) + "\n"
