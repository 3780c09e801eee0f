"""Fixtures shared by all tests: the embedded frames, the host and the redox rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow_lib.frames import Frame, frame_to_atoms, read_parquet, with_labels
from workflow_lib.host import Host
from workflow_lib.redox import RedoxRule

ROOT = Path(__file__).parents[1]
FRAMES = ROOT / "resources/naxfepo4-gpaw/frames.parquet"
HOST = ROOT / "resources/hosts/olivine-nafepo4.json"
REFERENCE = "GPAW/PBE+U(Fe 5.3)/PW500/Gamma"
RULE = {
    "element": "Fe",
    "states": [
        {"oxidation": 2, "surrogate": "Fe", "new_species": "Fe", "magmom": {REFERENCE: [3.5, 3.85]}},
        {"oxidation": 3, "surrogate": "Ga", "new_species": "Ac", "magmom": {REFERENCE: [4.1, 4.5]}},
    ],
    "formal_charges": {"Na": 1, "P": 5, "O": -2, "Si": 4, "S": 6},
}


@pytest.fixture(scope="session")
def rule() -> RedoxRule:
    return RedoxRule.model_validate(RULE)


@pytest.fixture(scope="session")
def host() -> Host:
    return Host.load(HOST)


@pytest.fixture(scope="session")
def frames(rule: RedoxRule, host: Host) -> list[Frame]:
    """The embedded frames with charge states assigned and arrangements named."""
    labelled = []
    for frame in read_parquet(FRAMES):
        states, reason = rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
        assert states is not None, reason
        key = host.key(host.locate(frame_to_atoms(frame), states))
        labelled.append(with_labels(frame, oxidation_states=states, state_key=key))
    return labelled
