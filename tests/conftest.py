"""Fixtures shared by all tests: the embedded frames, the host and the redox rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from samples import FRAMES, HOST, ORIGINAL, RULE, host_elements

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, frame_to_atoms, with_labels
from workflow_lib.frames.table import read_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule

# Fuzz tests and relations that hold for any input: brief and the same at every run, or, with
# `pytest --hypothesis-profile long`, a long search for new inputs.
settings.register_profile(
    "brief",
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("long", settings.get_profile("brief"), max_examples=1000, derandomize=False)
settings.load_profile("brief")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and all that run Snakemake, which locks its folder.

    These take as long as all others together, so one of several processes begins with them.
    """
    for item in items:
        group = "workflow" if "workflow" in item.path.parent.name else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "workflow" not in item.path.parent.name)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave pictures out, which take most of a stage's time to draw; ``draws`` marks tests of pictures.

    Whole runs (tests/workflow) draw all of them, in processes of their own.
    """

    def placeholder(figure: Figure, path: str | Path, **_: object) -> None:
        Path(path).write_text("not drawn: this test is not marked `draws`")

    if "draws" not in request.keywords:
        monkeypatch.setattr(Figure, "savefig", placeholder)


@pytest.fixture(scope="session")
def rule() -> RedoxRule:
    return RedoxRule.model_validate(RULE)


@pytest.fixture(scope="session")
def host(rule: RedoxRule) -> Host:
    return Host.load(HOST, rule)


@pytest.fixture(scope="session")
def all_frames(rule: RedoxRule, host: Host) -> list[Frame]:
    """Every embedded frame, in the order of the file.

    Frames of the host's elements have their charge states, and the name of their arrangement where
    they fit the host's sites. Other chemistries are as the file holds them.
    """

    def labelled(frame: Frame) -> Frame:
        if not host_elements(frame.numbers):
            return frame
        states, _ = rule.assign(frame.numbers, frame.magmoms, frame.energy_reference)
        try:
            key = None if states is None else host.key(host.locate(frame_to_atoms(frame), states))
        except UserError:
            key = None  # an atom between the sites, or another polymorph
        return with_labels(frame, oxidation_states=states, state_key=key)

    return [labelled(frame) for frame in read_parquet(FRAMES)]


@pytest.fixture(scope="session")
def frames(all_frames: list[Frame]) -> list[Frame]:
    """The embedded frames of the NaFePO4 host; that none is lost on the way is a test of its own.

    The original set comes first, so that ``frames[60]`` is the same frame in every later table.
    """
    return [f for f in all_frames if host_elements(f.numbers) and f.state_key is not None]


@pytest.fixture(scope="session")
def original_frames(frames: list[Frame]) -> list[Frame]:
    """The first data set: for tests of its published numbers, or of no data in particular."""
    return [frame for frame in frames if frame.source == ORIGINAL]
