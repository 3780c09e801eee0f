"""Charge states of frames: moments decide, nothing is forced, every frame set aside has its reason."""

from __future__ import annotations

import numpy as np
import pytest
from assigning import assign

from workflow_lib.frames.frame import with_labels
from workflow_lib.frames.subset import composition, describe_subset, in_subset
from workflow_lib.frames.table import FrameBatch, frames_to_table
from workflow_lib.stages.dataset.assign import charge_states, split_names
from workflow_lib.stages.dataset.settings import DatasetSettings

SETTINGS = DatasetSettings()


@pytest.fixture
def unlabelled(frames):
    """The embedded frames as the file holds them."""
    return [with_labels(frame, oxidation_states=None, state_key=None) for frame in frames]


def changed_moment(frame, state: int, moment: float):
    """The frame with the moment of its first Fe of this state replaced."""
    magmoms = frame.magmoms.copy()
    magmoms[np.flatnonzero(frame.oxidation_states == state)[0]] = moment
    return with_labels(frame, magmoms=magmoms, oxidation_states=None, state_key=None)


def test_all_embedded_frames_are_kept_in_order(unlabelled, frames, rule, host):
    kept, aside = assign(unlabelled, rule, host, SETTINGS)
    assert not aside
    assert [f.frame_id for f in kept] == [f.frame_id for f in frames]
    assert [f.state_key for f in kept] == [f.state_key for f in frames]
    for mine, theirs in zip(kept, frames, strict=True):
        np.testing.assert_array_equal(mine.oxidation_states, theirs.oxidation_states)
    assert all(f.oxidation_states is None for f in unlabelled)  # the input is not changed


def test_ambiguous_frames_are_set_aside_with_reason_and_category(unlabelled, frames, rule, host):
    half = frames[60]
    cases = {
        "ambiguous moment": changed_moment(half, 2, 3.95),
        "not neutral": changed_moment(half, 2, 4.30),
        "no moments": with_labels(unlabelled[60], magmoms=None),
        "given charge states contradict": with_labels(
            half, oxidation_states=np.where(half.numbers == 26, 5 - half.oxidation_states, 0)
        ),
    }
    bad = [with_labels(frame, frame_id=category) for category, frame in cases.items()]
    kept, aside = assign([*unlabelled[:50], *bad, *unlabelled[50:]], rule, host, SETTINGS)
    assert len(kept) == len(unlabelled)
    assert [item.category for item in aside] == list(cases)
    assert [item.frame_id for item in aside] == list(cases)
    table = {item.category: item.reason for item in aside}
    assert "moment 3.95 muB of atom" in table["ambiguous moment"]
    assert "1 Fe2+ given, 2 needed" in table["not neutral"]
    assert "its moment of" in table["given charge states contradict"]


def test_unknown_level_has_no_moment_window(unlabelled, rule, host):
    other = [with_labels(frame, energy_reference="VASP") for frame in unlabelled[:3]]
    kept, aside = assign(other, rule, host, SETTINGS)
    assert not kept
    assert {item.category for item in aside} == {"no moment window"}


def test_charge_states_given_without_moments_count_if_neutral(frames, rule):
    given = with_labels(frames[60], magmoms=None)
    wrong = given.oxidation_states.copy()
    wrong[np.flatnonzero(wrong == 2)[0]] = 3
    batch = FrameBatch(frames_to_table([given, with_labels(given, oxidation_states=wrong)]), "here")
    states, (none, reason) = charge_states(batch, rule, given.energy_reference)
    assert none is None
    np.testing.assert_array_equal(states[: len(given)], frames[60].oxidation_states)
    assert reason.startswith("given charge states: the cell is not neutral")


def test_agreeing_charge_states_and_moments_are_kept(frames, rule, host):
    kept, aside = assign(frames[:20], rule, host, SETTINGS)
    assert (len(kept), len(aside)) == (20, 0)


def test_energy_window_counts_from_the_lowest_frame_of_each_state(unlabelled, rule, host):
    kept, aside = assign(unlabelled, rule, host, SETTINGS.model_copy(update={"energy_window": 0.02}))
    assert len(kept) + len(aside) == len(unlabelled)
    assert {item.category for item in aside} == {"energy window"}
    lowest: dict = {}
    for frame in kept:
        lowest[frame.state_key] = min(lowest.get(frame.state_key, 0.0), frame.energy / len(frame))
    assert len(lowest) == 16
    assert all(f.energy / len(f) - lowest[f.state_key] <= 0.02 for f in kept)
    by_group = {f.group: lowest[f.state_key] for f in kept}
    left = [f for f in unlabelled if f.frame_id in {item.frame_id for item in aside}]
    assert all(f.energy / len(f) - by_group[f.group] > 0.02 for f in left)


def test_energy_window_never_compares_compositions(unlabelled, rule):
    """One group of several compositions, off any host: each counts from its own lowest frame."""
    window = SETTINGS.model_copy(update={"energy_window": 0.02})
    apart, _ = assign([with_labels(f, group=composition(f)) for f in unlabelled], rule, None, window)
    together, _ = assign([with_labels(f, group="material") for f in unlabelled], rule, None, window)
    assert [f.frame_id for f in together] == [f.frame_id for f in apart]
    assert len({composition(f) for f in together}) == len({composition(f) for f in unlabelled}) > 1


def test_without_host_frames_keep_their_group(unlabelled, rule):
    kept, aside = assign(unlabelled, rule, None, SETTINGS)
    assert not aside
    assert all(frame.state_key is None and frame.oxidation_states is not None for frame in kept)
    assert split_names(kept) == [frame.group for frame in unlabelled]


def off_site(frame, **changes):
    """An Na (atom 0) moved to where the host has no site."""
    positions = frame.positions.copy()
    positions[0] += [2.5, 0.0, 0.0]
    return with_labels(frame, positions=positions, **changes)


def test_frame_on_no_site_shares_the_set_of_its_group(unlabelled, rule, host):
    moved = off_site(unlabelled[60], frame_id="moved")
    kept, aside = assign([*unlabelled, moved], rule, host, SETTINGS)
    assert not aside
    assert kept[-1].state_key is None
    assert split_names(kept)[-1] == kept[60].state_key


def test_frame_on_no_site_of_its_own_group_is_its_own_unit(unlabelled, rule, host):
    kept, _ = assign([off_site(unlabelled[60], frame_id="m", group="lonely")], rule, host, SETTINGS)
    assert split_names(kept) == ["lonely"]


def test_frame_on_no_site_whose_group_holds_several_states_is_set_aside(unlabelled, rule, host):
    one_group = [with_labels(frame, group="all") for frame in unlabelled]
    moved = off_site(one_group[60], frame_id="moved")
    kept, aside = assign([*one_group, moved], rule, host, SETTINGS)
    assert len(kept) == len(unlabelled)
    assert [(item.frame_id, item.category) for item in aside] == [("moved", "no split for it")]
    assert "group all holds 16 states" in aside[0].reason


def manganese(frame, **changes):
    """The same cell with Mn for Fe: outside the chemical subset."""
    return with_labels(frame, numbers=np.where(frame.numbers == 26, 25, frame.numbers), **changes)


def test_other_chemistries_stay_unlabelled_and_are_not_set_aside(unlabelled, rule, host):
    other = manganese(unlabelled[60], frame_id="mn", group="mn")
    kept, aside = assign([*unlabelled, other], rule, host, SETTINGS)
    assert not aside
    assert kept[-1].oxidation_states is None
    assert kept[-1].state_key is None
    assert [in_subset(frame.numbers, SETTINGS) for frame in kept] == [True] * len(unlabelled) + [False]


def test_subset_needs_required_and_allows_only_its_elements(frames):
    numbers = frames[60].numbers
    assert in_subset(numbers, SETTINGS)
    assert in_subset(frames[0].numbers, SETTINGS)  # no Na: allowed, not required
    assert not in_subset(numbers[numbers != 15], SETTINGS)
    assert not in_subset(np.append(numbers, 14), SETTINGS)
    assert describe_subset(SETTINGS) == "only Na, Fe, P, O, all of Fe, P, O"


def test_composition_per_formula_unit(frames):
    found = {composition(frame) for frame in frames}
    assert found == {"FePO4", "Na0.25FePO4", "Na0.5FePO4", "Na0.75FePO4", "NaFePO4"}
    assert composition(manganese(frames[0])) == "MnPO4"
