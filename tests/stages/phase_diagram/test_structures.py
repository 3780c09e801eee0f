"""What relaxed structures count as, for potentials with labels, with moments and with neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from samples import REFERENCE
from sealed import write_sealed

from workflow_lib.core.errors import UserError
from workflow_lib.lattice.arrangement import Arrangement
from workflow_lib.lattice.host import Host
from workflow_lib.simulation.relaxation import Relaxation
from workflow_lib.simulation.settings import RelaxationSettings
from workflow_lib.stages.phase_diagram.structures import (
    Answer,
    DftSource,
    ModelSource,
    end_energies,
    unconverged,
)

LOW, HIGH = 3.7, 4.3  # muB, within the windows of the embedded level


class Potential:
    """Predicts the moments that are written on a structure."""

    name, identity, level = "fake", "fake", REFERENCE
    elements: frozenset[int] | None = None

    def __init__(self, *, labelled: bool = False, moments: bool = False) -> None:
        self.charge_labelled = labelled
        self.predicts = frozenset({"magmoms"}) if moments else frozenset()

    def predict(self, atoms: list[Atoms], **_: Any) -> list[Any]:
        class Prediction:
            def __init__(self, item: Atoms) -> None:
                self.magmoms = item.arrays["shown"]

        return [Prediction(item) for item in atoms]


def source(
    host: Host,
    potential: Potential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Any,
    *,
    accept_unconverged: bool = True,
) -> ModelSource:
    """A source whose relaxations end as ``change(atoms)`` makes of the start."""

    def relaxed(_: Any, host: Host, arrangements: list[Arrangement], **options: Any) -> list[Relaxation]:
        ends = []
        for arrangement in arrangements:
            atoms, status = change(host.build(arrangement))
            ends.append(Relaxation(atoms, -100.0 - len(ends), 0.01, 9, status))
        return ends

    monkeypatch.setattr("workflow_lib.simulation.cache.relax_arrangements", relaxed)
    return ModelSource(
        potential,  # type: ignore[arg-type]
        host,
        relaxation=RelaxationSettings(),
        stop=RelaxationSettings().stop(stress_converged=False),
        cache=tmp_path,
        accept_unconverged=accept_unconverged,
    )


def showing(moments: list[float]) -> Any:
    """Structures on their sites whose redox sites show these moments, in order."""

    def change(atoms: Atoms) -> tuple[Atoms, str]:
        shown = np.zeros(len(atoms))
        shown[atoms.numbers == 26] = moments
        atoms.set_array("shown", shown)
        return atoms, "converged"

    return change


ASKED = "1x1x1:Na1001:Fe2323"


def only(found: ModelSource, host: Host) -> Answer:
    [answer] = found.answers([host.parse(ASKED)])
    return answer


def test_a_labelled_model_carries_the_charge_states(host: Host, tmp_path: Path, monkeypatch):
    found = source(host, Potential(labelled=True), tmp_path, monkeypatch, showing([0, 0, 0, 0]))
    answer = only(found, host)
    assert (answer.order, host.key(answer.became)) == ("carried", ASKED)  # type: ignore[arg-type]
    assert found.charges
    assert found.distortion == RelaxationSettings().polaron_distortion


def test_a_labelled_structure_whose_ion_moved_counts_as_what_it_became(
    host: Host, tmp_path: Path, monkeypatch
):
    def moved(atoms: Atoms) -> tuple[Atoms, str]:
        ions = np.flatnonzero(atoms.numbers == 11)
        other = host.build(host.parse("1x1x1:Na1010:Fe2323"))
        atoms.positions[ions] = other.positions[other.numbers == 11]
        return atoms, "converged"

    answer = only(source(host, Potential(labelled=True), tmp_path, monkeypatch, moved), host)
    became = host.parse("1x1x1:Na1010:Fe2323")
    assert (answer.order, host.key(answer.became)) == (  # type: ignore[arg-type]
        "changed",
        host.key(host.canonical(became)),
    )


def test_what_ran_out_of_steps_counts_unless_the_configuration_refuses(
    host: Host, tmp_path: Path, monkeypatch
):
    potential = Potential(labelled=True)

    def late(atoms: Atoms) -> tuple[Atoms, str]:
        return atoms, "unconverged"

    accepted = only(source(host, potential, tmp_path, monkeypatch, late), host)
    assert (accepted.order, unconverged([accepted])) == ("carried", 1)
    refused = only(source(host, potential, tmp_path, monkeypatch, late, accept_unconverged=False), host)
    assert (refused.order, refused.became, unconverged([refused])) == ("unconverged", None, 0)


@pytest.mark.parametrize(
    ("moments", "order", "key"),
    [
        ([LOW, HIGH, LOW, HIGH], "kept", ASKED),
        ([-LOW, HIGH, -LOW, -HIGH], "kept", ASKED),  # the sign of a moment is its direction
        ([LOW, LOW, HIGH, HIGH], "changed", "1x1x1:Na1001:Fe2233"),
        ([4.0, HIGH, LOW, HIGH], "ambiguous", "1x1x1:Na1001"),  # between the windows
        ([LOW, HIGH, HIGH, HIGH], "ambiguous", "1x1x1:Na1001"),  # not neutral
    ],
)
def test_moments_say_what_a_structure_became(
    moments: list[float], order: str, key: str, host: Host, tmp_path: Path, monkeypatch
):
    found = source(host, Potential(moments=True), tmp_path, monkeypatch, showing(moments))
    answer = only(found, host)
    assert (answer.order, host.key(answer.became)) == (order, key)  # type: ignore[arg-type]
    assert found.charges


def test_a_potential_without_moments_has_ions_only(host: Host, tmp_path: Path, monkeypatch):
    found = source(host, Potential(), tmp_path, monkeypatch, showing([0, 0, 0, 0]))
    answer = only(found, host)
    assert (answer.order, host.key(answer.became)) == ("none", "1x1x1:Na1001")  # type: ignore[arg-type]
    assert not found.charges
    assert found.distortion == 0


def test_what_left_its_sites_or_diverged_does_not_count(host: Host, tmp_path: Path, monkeypatch):
    def away(atoms: Atoms) -> tuple[Atoms, str]:
        atoms.set_array("shown", np.full(len(atoms), HIGH))
        atoms.positions[atoms.numbers == 11] += 1.9
        return atoms, "unconverged"

    potential = Potential(moments=True)
    lost = only(source(host, potential, tmp_path, monkeypatch, away), host)
    assert (lost.order, lost.became) == ("off-site", None)
    gone = only(source(host, potential, tmp_path, monkeypatch, lambda a: (a, "diverged")), host)
    assert (gone.order, gone.became) == ("diverged", None)
    assert unconverged([lost, gone]) == 0
    assert all(np.isnan(end_energies([lost, gone], host)))


def test_end_energies_are_the_lowest_of_each_end(host: Host):
    full, empty = host.parse("1x1x1:Na1111:Fe2222"), host.parse("1x1x1:Na0000:Fe3333")
    answers = [
        Answer(a, a, "carried", energy, "converged", 0.0)
        for a, energy in ((full, -188.0), (full, -189.0), (empty, -171.0))
    ]
    assert end_energies(answers, host) == (-171.0 / 4, -189.0 / 4)


def test_a_reference_without_a_converged_state_is_one_line(host: Host, tmp_path: Path):
    """It was a traceback, where the configuration refuses states that ran out of steps."""
    late = pd.DataFrame({"state_key": [ASKED], "energy_ev": [-180.0], "status": ["unconverged"]})
    write_sealed("charge_order/reference", tmp_path, late.assign(fmax_ev_a=0.2, level=REFERENCE))
    assert len(DftSource(tmp_path, host, accept_unconverged=True).all) == 1
    with pytest.raises(
        UserError, match=r"no state that DFT has converged, .* thermodynamics\.accept_unconverged: true"
    ) as error:
        DftSource(tmp_path, host, accept_unconverged=False)
    assert "\n" not in str(error.value)


def test_a_potential_that_does_not_know_the_elements_is_one_line(host: Host, tmp_path: Path, monkeypatch):
    potential = Potential()
    potential.elements = frozenset({8, 26})
    with pytest.raises(UserError, match=r"^fake does not know Na, P of olivine"):
        source(host, potential, tmp_path, monkeypatch, showing([0, 0, 0, 0]))


def test_moments_of_a_level_without_windows_are_refused_before_anything_relaxes(
    host: Host, tmp_path: Path, monkeypatch
):
    potential = Potential(moments=True)
    potential.level = "VASP/r2SCAN"
    with pytest.raises(
        UserError, match=r"^fake .* level 'VASP/r2SCAN', .* no magmom window of Fe2\+ and Fe3\+"
    ):
        source(host, potential, tmp_path, monkeypatch, showing([LOW] * 4))
    # A model that carries charge states, or knows none, needs no window.
    for blind in (Potential(labelled=True, moments=True), Potential()):
        blind.level = "VASP/r2SCAN"
        source(host, blind, tmp_path, monkeypatch, showing([LOW] * 4))
