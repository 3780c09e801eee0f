"""The redox rule: neutral or nothing, and every refusal says why."""

from __future__ import annotations

import copy
import re
from collections import Counter

import numpy as np
import pytest
from ase.symbols import symbols2numbers
from pydantic import ValidationError
from samples import ORIGINAL, REFERENCE, RULE, host_elements, sample_table

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import frame_to_atoms
from workflow_lib.lattice.redox import RedoxRule, RedoxState
from workflow_lib.models.species import rule_from_card, species_alphabet

HALF = np.array(symbols2numbers("Na2Fe4P4O16"))
SITES = HALF == 26
"""Half of the sodium: two of the four Fe must be Fe2+."""


def moments(*iron: float) -> np.ndarray:
    values = np.full(len(HALF), 0.05)
    values[SITES] = iron
    return values


@pytest.mark.parametrize(
    ("formula", "reduced"),
    [
        ("Na4Fe4P4O16", 4),
        ("Na1Fe4P4O16", 1),
        ("Fe4P4O16", 0),
        ("Na8Fe12P12O48", 8),
        # Other hosts: the number of Fe2+ is not the number of Na.
        ("Na2FeSiO4", 1),
        ("NaFeSiO4", 0),
        ("Na3Fe4S6O24", 3),  # a sulphate: 12 e of SO4 leave one Fe2+ per Na
        ("Na2O", 0),
    ],
)
def test_neutrality_gives_the_number_of_reduced_sites(rule, formula, reduced):
    assert rule.n_reduced(np.array(symbols2numbers(formula))) == reduced


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("Na5Fe4P4O16", r"no assignment of Fe2\+/Fe3\+ to 4 sites makes the cell neutral"),
        ("Fe4P5O16", "makes the cell neutral"),
        ("NaCuPO4", "no formal charge for Cu; add it to redox.formal_charges"),
        ("Na4P4O16", "no assignment"),
    ],
)
def test_impossible_compositions(rule, formula, message):
    with pytest.raises(UserError, match=message):
        rule.n_reduced(np.array(symbols2numbers(formula)))


def test_assignment_from_moments(rule):
    states, reason = rule.assign(HALF, moments(3.65, 4.30, 3.66, 4.25), REFERENCE)
    assert reason is None
    np.testing.assert_array_equal(states[SITES], [2, 3, 2, 3])
    assert not states[~SITES].any()


def test_windows_include_their_edges_and_ignore_the_sign(rule):
    states, reason = rule.assign(HALF, -moments(3.5, 3.85, 4.1, 4.5), REFERENCE)
    assert reason is None
    np.testing.assert_array_equal(states[SITES], [2, 2, 3, 3])


@pytest.mark.parametrize(
    ("values", "level", "reason"),
    [
        (moments(3.9, 3.9, 3.9, 3.9), REFERENCE, "moment 3.90 muB of atom 2 fits no single charge state"),
        (moments(3.65, 3.95, 3.66, 4.3), REFERENCE, "moment 3.95 muB of atom 3"),
        (moments(3.65, 4.6, 3.66, 4.3), REFERENCE, "moment 4.60 muB of atom 3"),
        (moments(3.65, 3.65, 3.65, 4.3), REFERENCE, "the cell is not neutral: 3 Fe2.* 2 needed"),
        (moments(4.3, 4.3, 4.3, 4.3), REFERENCE, "the cell is not neutral: 0 Fe2.* 2 needed"),
        (None, REFERENCE, "no magnetic moments"),
        (moments(3.65, 4.3, 3.65, 4.3), "VASP/PBE", "no moment window for energy reference VASP/PBE"),
    ],
)
def test_ambiguous_frames_come_back_with_the_reason(rule, values, level, reason):
    states, found = rule.assign(HALF, values, level)
    assert states is None
    assert re.search(reason, found)


def test_overlapping_windows_make_a_moment_ambiguous():
    wide = copy.deepcopy(RULE)
    wide["states"][0]["magmom"][REFERENCE] = [3.5, 4.2]
    states, reason = RedoxRule.model_validate(wide).assign(HALF, moments(3.6, 4.15, 3.6, 4.3), REFERENCE)
    assert states is None
    assert "4.15" in reason


def test_unknown_ion_is_a_reason_not_a_crash(rule):
    numbers = np.array(symbols2numbers("CuFePO4"))
    states, reason = rule.assign(numbers, np.array([4.5, 3.6, 0, 0, 0, 0, 0]), REFERENCE)
    assert states is None
    assert reason.startswith("no formal charge for Cu")


def states_of(*iron: int) -> np.ndarray:
    values = np.zeros(len(HALF), dtype=int)
    values[SITES] = iron
    return values


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (states_of(2, 2, 2, 3), "the cell is not neutral: 3 Fe2. given, 2 needed"),
        (states_of(2, 2, 0, 3), r"oxidation_states\[4\] of Fe is 0; it must be 2 or 3"),
        (states_of(2, 2, 4, 3), r"oxidation_states\[4\] of Fe is 4"),
        (states_of(2, 2, 3, 3)[:-1], "holds 25 values for 26 atoms"),
        (np.where(HALF == 11, 2, states_of(2, 2, 3, 3)), r"oxidation_states\[0\] of Na is 2; .* must be 0"),
        (states_of(2, 2, 3, 3) + np.where(SITES, 0.9, 0), r"oxidation_states\[2\] of Fe is 2.9; it must"),
    ],
)
def test_wrong_labels_are_refused(rule, states, message):
    with pytest.raises(UserError, match=message):
        rule.check_neutral(HALF, states)
    for embedding in ("surrogate", "new-species"):
        with pytest.raises(UserError, match=message):
            rule.embed(HALF, states, embedding)
    with pytest.raises(UserError, match=message):
        rule.formal(HALF, states)


def test_formal_charges_of_the_other_ions_are_no_contradiction(rule):
    written = states_of(2, 3, 3, 2) + np.select([HALF == 11, HALF == 15, HALF == 8], [1, 5, -2])
    rule.check_neutral(HALF, written)
    np.testing.assert_array_equal(rule.formal(HALF, written), written)
    np.testing.assert_array_equal(
        rule.embed(HALF, written, "surrogate"), rule.embed(HALF, states_of(2, 3, 3, 2), "surrogate")
    )


def test_embedding_relabels_the_higher_state_only(rule):
    states = states_of(2, 3, 3, 2)
    np.testing.assert_array_equal(rule.embed(HALF, states, "none"), HALF)
    np.testing.assert_array_equal(rule.embed(HALF, states, "surrogate")[SITES], [26, 31, 31, 26])
    np.testing.assert_array_equal(rule.embed(HALF, states, "new-species")[SITES], [26, 89, 89, 26])
    for embedding in ("surrogate", "new-species"):
        np.testing.assert_array_equal(rule.embed(HALF, states, embedding)[~SITES], HALF[~SITES])


def test_embedding_leaves_its_input_alone(rule):
    before = HALF.copy()
    rule.embed(HALF, states_of(2, 3, 3, 2), "surrogate")
    np.testing.assert_array_equal(HALF, before)


def test_blind_models_need_no_labels_others_do(rule):
    np.testing.assert_array_equal(rule.embed(HALF, None, "none"), HALF)
    with pytest.raises(UserError, match="needs oxidation states; none were given"):
        rule.embed(HALF, None, "surrogate")


def test_a_cell_without_redox_sites_needs_no_labels(rule):
    phosphate = HALF[~SITES]
    for embedding in ("none", "surrogate", "new-species"):
        np.testing.assert_array_equal(rule.embed(phosphate, None, embedding), phosphate)
    with pytest.raises(UserError, match=r"Ga stands for Fe3\+ .* cannot be given Ga itself"):
        rule.embed(np.append(phosphate, 31), None, "surrogate")


def test_species_alphabet(rule):
    elements = (8, 11, 15, 26)
    assert species_alphabet(rule, elements, "none").labels == elements
    surrogate = species_alphabet(rule, elements, "surrogate")
    assert surrogate.labels == (8, 11, 15, 26, 31)
    assert surrogate.physical[31] == 26
    assert surrogate.surrogates == (31,)
    assert species_alphabet(rule, elements, "new-species").physical[89] == 26


@pytest.mark.parametrize(("embedding", "taken"), [("surrogate", 31), ("new-species", 89)])
def test_a_label_stands_for_one_element(rule, embedding, taken):
    """Frames may hold an element that formal_charges lacks; the order of the elements does not matter."""
    for elements in ([8, 26, taken], [taken, 26, 8]):
        with pytest.raises(
            UserError, match=r"frames with (Ga|Ac) itself; choose as (surrogate|new_species)"
        ):
            species_alphabet(rule, elements, embedding)
        assert species_alphabet(rule, elements, "none").labels == (8, 26, taken)
    assert taken in species_alphabet(rule, [8, taken], embedding).labels  # without iron there is no label


def test_formal_charges_sum_to_zero(rule, frames):
    for frame in frames[::20]:
        assert rule.formal(frame.numbers, frame.oxidation_states).sum() == 0
    charges = rule.formal(HALF, states_of(2, 3, 3, 2))
    np.testing.assert_array_equal(charges[SITES], [2, 3, 3, 2])
    assert set(charges[HALF == 8]) == {-2.0}


def test_a_rule_survives_the_card_of_a_model(rule):
    assert rule_from_card({"redox": rule.model_dump(mode="json")}) == rule


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(element="Ferrum"), "there is no element 'Ferrum'"),
        (lambda r: r["states"].reverse(), "from the lower to the higher oxidation state"),
        (lambda r: r["states"][1].update(surrogate="Fe"), "different surrogate species"),
        (lambda r: r["states"][1].update(surrogate="Gallium"), "no element 'Gallium'; did you mean Ga"),
        (lambda r: r["formal_charges"].update(Fe=2), "takes part in the redox couple"),
        (lambda r: r["formal_charges"].update(Xx=2), "no element 'Xx'"),
        (lambda r: r["states"][1].update(surrogate="P"), r"surrogate P of Fe3\+ is an ion of the material"),
        (
            lambda r: r["states"][0].update(new_species="Na"),
            r"new_species Na of Fe2\+ is an ion of the mat",
        ),
        (lambda r: r["states"][0]["magmom"].update({REFERENCE: [3.9, 3.5]}), "runs from 3.9 to 3.5"),
        (lambda r: r.update(colour="red"), "Extra inputs are not permitted"),
    ],
)
def test_mistakes_in_the_rule(change, message):
    raw = copy.deepcopy(RULE)
    change(raw)
    with pytest.raises(ValidationError, match=message):
        RedoxRule.model_validate(raw)


def test_all_embedded_frames_are_unambiguous(rule, all_frames, frames):
    """No frame of the host's elements lacks charge states, and no relaxed or rattled state its sites."""
    table = sample_table()
    assert len(all_frames) == len(table)
    mine = [frame for frame in all_frames if host_elements(frame.numbers)]
    assert len(mine) == table["subset"].sum() >= table["host"].sum() >= len(frames)
    for frame in mine:
        if frame.oxidation_states is None:
            pytest.fail(str((frame.frame_id, rule.assign(frame.numbers, frame.magmoms, REFERENCE))))
        reduced = np.count_nonzero(frame.oxidation_states == 2)
        assert reduced == np.count_nonzero(frame.numbers == 11)
    # Hot ions may be found between the sites; those that relax or rattle are near them.
    still = table[table["host"] & table["kind"].isin(["relaxation", "rattle"])]
    assert set(still["frame_id"]) <= {frame.frame_id for frame in frames}


def test_the_original_set_is_whole_and_comes_first(all_frames, original_frames):
    # Of its README: 166 relaxation frames and 25 rattled ones.
    assert Counter(frame.kind for frame in original_frames) == {"relaxation": 166, "rattle": 25}
    assert [f.source == ORIGINAL for f in all_frames] == [i < 191 for i in range(len(all_frames))]


def test_other_materials_are_never_states_of_the_host(rule, host, all_frames):
    """They hold ions without a formal charge, or fit no site: no arrangement is made up for them."""
    own = dict(zip(*(sample_table()[name] for name in ("frame_id", "host")), strict=True))
    for frame in all_frames:
        if not own[frame.frame_id]:
            states, reason = rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
            if states is None:
                assert reason, frame.frame_id
                continue
            with pytest.raises(UserError):
                host.locate(frame_to_atoms(frame), states)


def test_many_frames_at_once_are_what_they_are_one_by_one(rule, frames):
    """Sound, ambiguous, moment-free, charged and foreign frames side by side, against loops."""
    rng = np.random.default_rng(8)
    numbers, moments_of = [], []
    for index, frame in enumerate(frames[:60]):
        moment = frame.magmoms + rng.normal(0, 0.12, len(frame)) * (index % 2)
        if index % 7 == 0:
            moment = np.full(len(frame), np.nan)
        kept = slice(1, None) if index % 5 == 0 else slice(None)
        numbers.append(
            np.where(frame.numbers[kept] == 15, 33 if index % 11 == 0 else 15, frame.numbers[kept])
        )
        moments_of.append(moment[kept])
    offsets = np.concatenate([[0], np.cumsum([len(n) for n in numbers])])
    states, reasons = rule.assign_many(
        np.concatenate(numbers), offsets, np.concatenate(moments_of), REFERENCE
    )
    windows = {state.oxidation: state.magmom[REFERENCE] for state in rule.states}
    for index, (n, m) in enumerate(zip(numbers, moments_of, strict=True)):
        iron = np.flatnonzero(n == 26)
        read = [[s for s, (lo, hi) in windows.items() if lo <= abs(m[i]) <= hi] for i in iron]
        known = np.isfinite(m[iron]).all() and all(len(found) == 1 for found in read)
        charge = sum({11: 1, 15: 5, 8: -2}.get(int(z), 99) for z in n if z != 26)
        sound = known and charge + sum(found[0] for found in read) == 0
        assert (reasons[index] is None) == sound, reasons[index]
        if sound:
            assert states[offsets[index] : offsets[index + 1]][iron].tolist() == [f[0] for f in read]
    assert {(reason or "sound").split()[0] for reason in reasons} >= {"sound", "moment", "no", "the"}


@pytest.mark.parametrize("window", [(-3.9, -3.4), (-1.0, 1.0), (4.0, 3.0), (3.0, 3.0)])
def test_windows_that_no_moment_can_meet_are_refused(window):
    with pytest.raises(ValueError, match="moments count by magnitude"):
        RedoxState(oxidation=2, surrogate="Fe", new_species="Fe", magmom={"level": window})
