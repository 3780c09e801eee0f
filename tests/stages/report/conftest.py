"""A run with everything that the page shows, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from page_run import make_run

from workflow_lib.frames.frame import Frame
from workflow_lib.lattice.host import Host
from workflow_lib.stages.report.run import run_report


@pytest.fixture(scope="session")
def run_folder(frames: list[Frame], host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "toy", frames, host)


@pytest.fixture(scope="session")
def page(run_folder: Path) -> Path:
    return run_report(run_folder, run_folder / "report")


@pytest.fixture(scope="session")
def data(page: Path) -> dict:
    """The numbers that the page holds for its charts and structures."""
    text = page.read_text().partition('<script type="application/json" id="data">')[2]
    return json.loads(text.partition("</script>")[0])


@pytest.fixture
def copy(run_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run_folder, tmp_path / "toy", ignore=shutil.ignore_patterns("report"))
