"""The answer of a run in two sentences, computed from its tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workflow_lib.core.digits import ion, percent, sensible, signed
from workflow_lib.core.intervals import GIVEN, LEAST_CLUSTERS, LEAST_TRAININGS
from workflow_lib.lattice.arrangement import mobile_of
from workflow_lib.models.identity import VARIANTS, variants_in
from workflow_lib.results_meanings import unit_of
from workflow_lib.results_schema import DFT, DIVERGED

if TYPE_CHECKING:
    import pandas as pd

    from workflow_lib.results import Run

WORDS = {
    "energy_mae_mev_atom": "energy of held-out frames",
    "force_mae_mev_a": "forces on held-out frames",
    "states_mae_mev_fu": "energies of unseen charge orders",
    "hull_mae_mev_fu": "convex hull",
    "step_voltage_mae_mv": "steps of the voltage",
}
"""Primary endpoints, in the order in which the page shows them: the errors of the contrast table."""
NUMBERS = ("energy_mae_mev_atom", "states_mae_mev_fu")
"""Endpoints whose numbers stand beside the verdict; the figure shows all."""
OF_ALL_STATES = ("energy_mae_mev_atom", "force_mae_mev_a")
PAIRS = (("subset", "entropy"), ("baseline", "entropy"))
"""Variants that the question compares, by preference; the first differ in the label alone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the page says first.

    ``decided``: whether any difference is; ``numbers``: a line for each of :data:`NUMBERS`, or one that
    says why there are none; ``size``: (quantity, value) pairs; ``notes``: what the numbers leave out.
    """

    question: str
    setting: str
    decided: bool
    verdict: str
    numbers: tuple[str, ...]
    size: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def as_json(self, run: str) -> dict[str, Any]:
        """Return the content of ``answer.json``."""
        return {
            "run": run,
            "question": self.question,
            "setting": self.setting,
            "decided": self.decided,
            "verdict": self.verdict,
            "numbers": list(self.numbers),
            "size": dict(self.size),
            "notes": list(self.notes),
        }


def unit_text(column: str) -> str:
    """Return the unit of a column as figures write it."""
    return unit_of(column).replace("meV/A", "meV/Å").replace("meV per atom", "meV/atom")


def headline(contrasts: pd.DataFrame, comparison: pd.DataFrame) -> pd.DataFrame:
    """Return the contrasts of the variants that the question is about, by endpoint.

    They are those of :data:`PAIRS` that most models of ``comparison`` have, also where one diverged: an
    answer for one model would pass over the others.
    """
    pairs = list(dict.fromkeys(zip(contrasts["variant_without"], contrasts["variant_with"], strict=True)))
    if not pairs:
        return contrasts
    known = [pair for pair in PAIRS if pair in pairs] or pairs[:1]
    pair = max(known, key=lambda pair: len(_having(comparison, pair)))
    chosen = contrasts[(contrasts["variant_without"] == pair[0]) & (contrasts["variant_with"] == pair[1])]
    order = {name: place for place, name in enumerate(WORDS)}
    return chosen.sort_values("endpoint", key=lambda names: names.map(order), kind="stable")


def answer_of(run: Run) -> Answer:
    """Return the question and the answer of a run."""
    configuration = run.configuration
    redox = configuration["redox"]
    low, high = (ion(redox["element"], state["oxidation"]) for state in redox["states"])
    question = (
        "Does a machine-learned interatomic potential need to be told which "
        f"{redox['element']} is {low} and which is {high}?"
    )
    comparison = run.table("comparison")
    contrasts = headline(run.table("comparison/contrasts"), comparison)
    return Answer(
        question,
        _setting(run, comparison, redox["element"], low, high),
        bool(len(contrasts)) and bool(contrasts["decided"].any()),
        _verdict(contrasts, _asked(comparison, contrasts)),
        tuple(_numbers(contrasts)),
        tuple(_size(run, configuration, comparison, contrasts)),
        tuple(_notes(run, comparison, contrasts, configuration)),
    )


def _setting(run: Run, comparison: pd.DataFrame, element: str, low: str, high: str) -> str:
    """Return what the models of the run learnt, and what of them is compared with DFT.

    ``element`` changes its charge; ``low`` and ``high`` name its two ions.
    """
    trained, _ = _trained(run.configuration, comparison)
    variants = [VARIANTS[name] for name in variants_in(trained["variant"])]
    ways = {
        f"without a label, so that all {element} look alike to them": any(
            not item.charge_labelled for item in variants
        ),
        f"with a label that makes {high} a species of its own": any(
            item.charge_labelled and not item.shuffled for item in variants
        ),
        f"with labels permuted among the {element} of each frame": any(item.shuffled for item in variants),
    }
    named = [words for words, there in ways.items() if there]
    count = {2: "in two ways: ", 3: "in three ways: "}.get(len(named), "")
    learnt = f"learnt DFT energies and forces of {_materials(run)} {count}{_listed(named)}"
    orders = f"charge orders (which site holds {low} and which {high})"
    tables = set(run.tables)
    compared = {
        "energies and forces": True,
        orders: "charge_order/states" in tables,
        "convex hull": "thermodynamics/hull" in tables,
        "voltage": "thermodynamics/voltage" in tables
        and bool((run.table("thermodynamics/voltage")["id"] == DFT).any()),
    }
    return (
        f"The models of this run {learnt if named else 'are not trained here'}. Compared with DFT are: "
        f"{', '.join(words for words, there in compared.items() if there)}."
    )


def _trained(configuration: dict[str, Any], comparison: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the models that learnt in this run, and of those that it gives no epoch."""
    own = comparison[comparison["fold"].notna()]
    left = [model["name"] for model in configuration["models"] if not _epochs(configuration, model)]
    as_shipped = own["model"].isin(left)
    return own[~as_shipped], own[as_shipped]


def _epochs(configuration: dict[str, Any], model: dict[str, Any]) -> int:
    return (configuration["training"] | model.get("training", {}))["epochs"]


def _materials(run: Run) -> str:
    """Return the composition with the most frames, and how many others there are."""
    counts = run.summary["frames_by_composition"]
    most, others = max(counts, key=lambda name: (counts[name], name)), len(counts) - 1
    if not others:
        return most
    return f"{most} and {others} other composition{'s' if others > 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _asked(comparison: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    """Return the models that the run trains both with and without the label, diverged ones among them."""
    if len(contrasts):
        return _having(comparison, contrasts[["variant_without", "variant_with"]].iloc[0])
    return [
        name
        for name, own in _variants(comparison).items()
        if len({VARIANTS[item].charge_labelled for item in own if not VARIANTS[item].control}) > 1
    ]


def _variants(comparison: pd.DataFrame) -> dict[str, set[str]]:
    """Return the variants of each model that the run trains, diverged ones among them."""
    trained = comparison[comparison["fold"].notna()]
    return {str(name): set(own) for name, own in trained.groupby("model", sort=False)["variant"]}


def _having(comparison: pd.DataFrame, pair: Iterable[str]) -> list[str]:
    return [name for name, own in _variants(comparison).items() if set(pair) <= own]


def _verdict(contrasts: pd.DataFrame, asked: Sequence[str]) -> str:
    """Return the first sentence: what is decided, or why nothing is. ``asked``: the models of the run."""
    if contrasts.empty and asked:
        return (
            "Not decided by this run: no model has a training with the label and one without it that both "
            "ended well."
        )
    if contrasts.empty:
        return "This run does not ask it: no model is trained both with and without the label."
    decided = contrasts[contrasts["decided"]]
    if decided.empty:
        return f"Not decided by this run: {_why_not(contrasts)}."
    better, worse = decided[decided["difference"] < 0], decided[decided["difference"] > 0]
    open_models = [name for name in asked if name not in set(decided["model"])]
    if worse.empty or better.empty:
        start = "Yes" if worse.empty else "No"
        if open_models:
            start += f" for {_listed(list(dict.fromkeys(decided['model'])))}"
    else:
        start = "It depends on the model and on the quantity"
    parts = [
        f"{verb} the error of {'; of '.join(_by_endpoint(rows))}"
        for verb, rows in (("lowers", better), ("raises", worse))
        if len(rows)
    ]
    undecided = f"; not decided for {_listed(open_models)}" if open_models else ""
    conditional = decided["reason"].str.contains(GIVEN, na=False).any()
    given = f", {GIVEN}s of this run" if conditional else ""
    return f"{start}: the label {', and it '.join(parts)}{given}{undecided}."


def _by_endpoint(rows: pd.DataFrame) -> list[str]:
    return [
        f"the {WORDS[str(endpoint)]} ({_listed(list(group['model']))})"
        for endpoint, group in rows.groupby("endpoint", sort=False)
    ]


def _why_not(contrasts: pd.DataFrame) -> str:
    """Return why nothing is decided, in words."""
    pairs = int(contrasts["trainings"].max())
    if pairs < LEAST_TRAININGS:
        count = ("a pair", "more than one pair", "more than two pairs")[pairs]
        return (
            f"no model has {count} of trainings, one with the label and one without it, that can "
            "be compared, and it takes at least three pairs to tell the effect of the label from chance"
        )
    return "no difference is clear of chance where all of them are asked together, with 95 % confidence"


def _numbers(contrasts: pd.DataFrame) -> list[str]:
    """Return for each of :data:`NUMBERS` how many errors the label lowers, and the extreme changes."""
    lines = []
    for endpoint in NUMBERS:
        rows = contrasts[(contrasts["endpoint"] == endpoint) & contrasts["difference"].notna()]
        if rows.empty:
            continue
        lower = int((rows["difference"] < 0).sum())
        ranked = rows.assign(share=rows["difference"] / rows["error_without"]).sort_values("share")
        changes = [_change(ranked.iloc[place]) for place in (0, -1)]
        models = f"{lower} of {len(rows)} model{'s' if len(rows) > 1 else ''}"
        extremes = f"from {changes[0]} to {changes[1]}" if len(rows) > 1 else changes[0]
        words = f"{WORDS[endpoint].capitalize()} ({unit_text(endpoint)})"
        lines.append(f"{words}: lower with the label for {models}, {extremes}")
    return lines or ["No error was measured both with the label and without it."]


def _change(row: pd.Series) -> str:
    """Return the change of one error relative to that without the label, both errors and the interval."""
    text = f"{percent(row['share'])} ({row['model']}: {sensible(row['error_without'])} → "
    text += sensible(row["error_with"])
    if row["low"] == row["low"]:  # else too few trainings, or too few states, for one
        text += f" [{signed(row['low'])} to {signed(row['high'])}]"
    return f"{text})"


def _size(
    run: Run, configuration: dict[str, Any], comparison: pd.DataFrame, contrasts: pd.DataFrame
) -> list[tuple[str, str]]:
    """Return how large the run was."""
    trained, as_shipped = _trained(configuration, comparison)
    families = trained["family"].nunique()
    folds, seeds = trained["fold"].nunique(), trained["seed"].nunique()
    size = [
        ("Models trained", f"{len(trained)}, of {families} famil{'y' if families == 1 else 'ies'}"),
        ("Folds × seeds", f"{folds} × {seeds}"),
        ("Training", training_length(configuration)),
    ]
    if len(trained):
        size.append(("Frames that train", _range(trained["train_frames"])))
    if len(as_shipped):
        names = _listed(list(dict.fromkeys(as_shipped["model"])))
        size.append(("Models without training (0 epochs)", f"{len(as_shipped)} ({names})"))
    size.append(("Frames in all", f"{run.summary['frames']['kept']:,}"))
    # Charge orders are compared at one composition; these are all held-out states.
    states = contrasts.loc[contrasts["endpoint"].isin(OF_ALL_STATES), "states"].dropna()
    # Split by frame, the states of held-out frames also train.
    if len(states) and configuration["dataset"].get("split_by") != "frame":
        size.append(("Held-out states", _range(states)))
    if "charge_order/reference" in run.tables:
        size.append(("Charge-ordered states known from DFT", str(len(run.table("charge_order/reference")))))
    relaxations = comparison.loc[comparison["fold"].notna(), "relaxations"].fillna(0).sum()
    size.append(("Relaxations by models", f"{int(relaxations):,}"))
    size.append(("Level of theory", str(configuration["dataset"]["energy_reference"])))
    return size


def training_length(configuration: dict[str, Any]) -> str:
    """Return how long the configuration lets the models train; ``max_steps`` is a limit, no length."""
    by_limit: dict[int | None, list[int]] = {}
    for model in configuration["models"]:
        settings = configuration["training"] | model.get("training", {})
        own = by_limit.setdefault(settings.get("max_steps"), [])
        epochs = _epochs(configuration, model)
        if epochs and epochs not in own:
            own.append(epochs)
    parts = [
        f"{' or '.join(f'{count:,}' for count in epochs)} epochs"
        + (f", at most {limit:,} steps" if limit else "")
        for limit, epochs in by_limit.items()
        if epochs
    ]
    return "; ".join(parts) or "none"


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _notes(
    run: Run, comparison: pd.DataFrame, contrasts: pd.DataFrame, configuration: dict[str, Any]
) -> list[str]:
    """Return what a reader must know to take the numbers for what they are."""
    notes = []
    lost = comparison.loc[comparison["status"] == DIVERGED, "id"].tolist()
    if lost:
        notes.append(f"These trainings diverged and have no part in the numbers: {', '.join(lost)}.")
    if len(contrasts):
        notes += _notes_of_intervals(comparison, contrasts)
    if configuration["dataset"].get("split_by") == "frame":
        notes.append(
            "Held-out frames are of states that also train: the errors are not those of unseen states."
        )
    if "thermodynamics/voltage" in run.tables:
        voltages = run.table("thermodynamics/voltage")
        if not (voltages["id"] == DFT).any():
            wanted = (
                mobile_of(run.table("thermodynamics/formation")["state_key"]),
                configuration["dataset"]["energy_reference"],
            )
            metals = configuration.get("thermodynamics", {}).get("metals", ())
            why = "DFT has no usable energy of both end members"
            if wanted not in {(metal["element"], metal["level"]) for metal in metals}:
                why = "thermodynamics.metals has no energy of {} metal at {}".format(*wanted)
            notes.append(f"There are no voltages: {why}.")
    return notes


def _notes_of_intervals(comparison: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    """Return what is not in the differences and their intervals."""
    notes = []
    trainings = int(contrasts["trainings"].max())
    if trainings < LEAST_TRAININGS:
        notes.append(
            "The intervals hold the spread over charge-ordered states alone: how much a second training "
            "with another seed would differ is not in them."
        )
    elif contrasts["folds"].max() < LEAST_CLUSTERS:
        notes.append(
            "There are fewer than three folds, so the intervals are given the training sets of this run: "
            "how much other training sets would change the differences is not in them."
        )
    else:
        notes.append(
            "The training sets of the folds share frames; the intervals are widened for it by the rule of "
            "Nadeau and Bengio (Mach. Learn. 52, 239, 2003)."
        )
    without, label = contrasts["variant_without"].iloc[0], contrasts["variant_with"].iloc[0]
    frames = {
        name: comparison.loc[comparison["variant"] == name, "train_frames"].dropna()
        for name in (without, label)
    }
    if all(len(own) for own in frames.values()) and set(frames[without]) != set(frames[label]):
        notes.append(
            f"The models without the label train on {_range(frames[without])} frames, those with it on "
            f"{_range(frames[label])}: the label is not the only difference between them."
        )
    return notes
