"""What a search says of itself in a log: how much is done, how fast, how long it will take, how good."""

from __future__ import annotations

import re

import pytest
from toy_landscape import SETTINGS, ToyEvaluator, owner

from workflow_lib.core import progress
from workflow_lib.core.progress import Progress, duration, pace
from workflow_lib.stages.search.run import search_all


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (99, "99 s"), (120, "2 min"), (5900, "98 min"), (6000, "1 h 40 min"), (4e5, "4 d 15 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_pace() -> None:
    assert (pace(12.34), pace(0.25)) == ("12.3/s", "4 s each")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "strftime", lambda _: "12:00:00")
    return now


def test_a_line_now_and_then(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ga", 100, "relaxation", done=20) as shown:
        for done, wait in ((30, 20), (40, 20), (40, 40), (100, 10)):
            clock[0] += wait
            shown.show(done, f"note {done}")
    assert capsys.readouterr().err.splitlines() == [
        "12:00:00 ga: 20 of 100 relaxations",
        "12:00:00 ga: 40 of 100 relaxations, 40 %, 2 s each, 2 min left; note 40",
        "12:00:00 ga: 40 of 100 relaxations, 40 %, 4 s each, 4 min left; note 40",
        "12:00:00 ga: 100 of 100 relaxations in 90 s; note 100",
    ]


def test_short_work_is_silent_unless_announced(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("relaxing", 4, "relaxation", announce=False) as shown:
        clock[0] += 5
        shown.show(4)
    assert capsys.readouterr().err == ""
    with Progress("relaxing", 4, "relaxation", announce=False) as shown:
        clock[0] += progress.PAUSE
        shown.show(0, "step 10")
        shown.show(4)
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_search_in_a_log(host, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.0)
    search_all(
        ToyEvaluator(),
        host=host,
        settings=SETTINGS,
        seed=5,
        owner=owner("toy"),
        work=tmp_path / "work",
        out=tmp_path / "out",
    )
    text = capsys.readouterr().err
    assert "\r" not in text
    lines = [line for line in text.splitlines() if "toy 1x3x1 ga" in line]
    assert "0 of 48 relaxations" in lines[0]
    numbers = r"\d+ of 48 relaxations, \d+ %, \S+( s each|/s), \S+ (s|min) left"
    found = r"generation \d+, lowest -?\d+\.\d meV/f\.u\. with \d+ mobile ions"
    assert all(re.search(f"ga: {numbers}; {found}", line) for line in lines[2:-1])
    assert re.search(rf"48 of 48 relaxations in \d+ s; {found}", lines[-1])
    best = [float(re.search(r"lowest (\S+) meV", line)[1]) for line in lines[2:]]  # type: ignore[index]
    assert best == sorted(best, reverse=True), "the lowest so far never rises"
