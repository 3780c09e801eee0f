"""Errors on labelled frames: magnitudes of moments, elements the model does not know."""

import numpy as np
import pytest
from morse_potential import morse_model
from samples import RULE

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, with_labels
from workflow_lib.frames.labels import UNSTATED
from workflow_lib.models.contract import Species
from workflow_lib.models.evaluate import evaluate


@pytest.fixture
def some(original_frames) -> list[Frame]:
    return [with_labels(f, energy_reference="test") for f in original_frames[:3]]


def signed(frame: Frame, sign) -> Frame:
    """The frame with moments of 3.6 muB and the given signs."""
    return with_labels(frame, magmoms=3.6 * np.resize(sign, len(frame)))


@pytest.mark.parametrize("head", [3.6, -3.6])
@pytest.mark.parametrize("sign", [[1], [-1], [1, -1], [1, 1, -1]])
def test_moments_are_judged_by_magnitude(some, head, sign):
    """Antiferromagnetic data, and heads that learned the other sign: both are right to the last digit."""
    values = evaluate(morse_model(moment=head), [signed(frame, sign) for frame in some], "here")
    assert values["magmom_mae_mub"] == values["magmom_rmse_mub"] == 0.0
    off = evaluate(morse_model(moment=head / 2), [signed(frame, sign) for frame in some], "here")
    assert off["magmom_mae_mub"] == pytest.approx(1.8)


def test_frames_of_unknown_elements_are_left_out_and_said(some, capsys):
    numbers = some[0].numbers.copy()
    numbers[numbers == 26] = 25
    foreign = with_labels(some[0], numbers=numbers)
    model = morse_model()
    expected = evaluate(model, some, "here")
    assert expected["frames_skipped"] == 0 and expected["unknown_elements"] is None
    assert capsys.readouterr().err == ""
    values = evaluate(model, [some[0], foreign, *some[1:]], "here")
    assert values | {"frames_skipped": 0, "unknown_elements": None} == expected
    assert values["frames_skipped"] == 1 and values["unknown_elements"] == "Mn"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "1 of 4 frames left out, they hold Mn" in said


def test_nothing_left_to_judge(some):
    numbers = some[0].numbers.copy()
    numbers[numbers == 26] = 25
    with pytest.raises(UserError, match="every frame of here holds Mn, which morse was not trained on"):
        evaluate(morse_model(), [with_labels(some[0], numbers=numbers)], "here")


def test_frames_without_charge_states_are_left_out_of_a_labelled_models_errors(original_frames, capsys):
    """One delocalised frame among many stopped the command; blind models judge it like any other."""
    frames = original_frames[:3]
    vague = with_labels(
        frames[0], magmoms=np.where(frames[0].numbers == 26, 3.95, 0.0), oxidation_states=None
    )
    model = morse_model(RULE, reference=frames[0].energy_reference)
    expected = evaluate(model, frames, "here")
    assert expected["frames_without_states"] == 0
    values = evaluate(model, [vague, *frames], "here")
    assert values | {"frames_without_states": 0} == expected and values["frames_without_states"] == 1
    assert "1 of 4 frames left out, they have no charge states" in capsys.readouterr().err
    blind = morse_model(reference=frames[0].energy_reference)
    assert evaluate(blind, [vague, *frames], "here")["frames"] == 4
    with pytest.raises(UserError, match="no frame of here has charge states that morse can use"):
        evaluate(model, [vague], "here")


def test_frames_in_a_charge_state_that_no_training_frame_held_are_left_out(original_frames, capsys):
    """A model of the oxidised end member alone: it knows iron, but not Fe2+."""

    def of(state: int) -> list[Frame]:
        return [f for f in original_frames if set(f.oxidation_states[f.numbers == 26]) == {state}][:2]

    oxidised = of(3)
    model = morse_model(RULE, reference=oxidised[0].energy_reference)
    model.potential.species = Species((8, 11, 15, 31), {8: 8, 11: 11, 15: 15, 31: 26})
    values = evaluate(model, [*oxidised, *of(2)], "here")
    assert values["frames"] == values["frames_without_states"] == 2
    assert "structure holds Fe2+, which the model was not trained on" in (said := capsys.readouterr().err)
    assert "it knows O, Na, P, Fe3+ (shown as Ga)" in said


def test_frames_that_trained_are_counted_and_left_out_on_request(some, capsys):
    """Errors of frames that trained are fit errors; on the file of a run they were most of the mean."""
    model = morse_model()
    assert evaluate(model, some, "here")["frames_trained_on"] is None
    assert capsys.readouterr().err == ""
    mixed = evaluate(model, some, "here", trained=some[:2])
    assert mixed["frames"] == 3 and mixed["frames_trained_on"] == 2
    assert "2 of 3 frames trained morse" in capsys.readouterr().err
    rest = evaluate(model, some, "here", trained=some[:2], unseen=True)
    alone = evaluate(model, some[2:], "here", trained=some[:2])
    assert rest | {"frames_trained_on": 0} == alone and rest["frames_trained_on"] == 2
    assert capsys.readouterr().err == ""


def test_unseen_needs_to_know_and_to_have_frames(some):
    with pytest.raises(UserError, match="which frames trained morse is not known"):
        evaluate(morse_model(), some, "here", unseen=True)
    with pytest.raises(UserError, match="every frame of here trained morse"):
        evaluate(morse_model(), some, "here", trained=some, unseen=True)


def test_a_level_that_is_not_stated_is_asked_for(some):
    unstated = [with_labels(frame, energy_reference=UNSTATED) for frame in some]
    with pytest.raises(
        UserError, match="does not state its level of theory; state it with --energy-reference"
    ):
        evaluate(morse_model(), unstated, "here")
