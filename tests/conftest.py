"""Fixtures shared by all tests: the embedded frames, the host and the redox rule."""

from __future__ import annotations

import pytest
from embedded import FRAMES, HOST, RULE

from workflow_lib.frames import Frame, frame_to_atoms, read_parquet, with_labels
from workflow_lib.host import Host
from workflow_lib.redox import RedoxRule


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
