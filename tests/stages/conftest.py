"""The charge-order stage's reference, made from the embedded frames, which the stages after it read."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow_lib.frames.frame import Frame
from workflow_lib.frames.table import write_parquet
from workflow_lib.lattice.host import Host
from workflow_lib.stages.charge_order.reference import build_reference


@pytest.fixture(scope="session")
def reference_dir(frames: list[Frame], host: Host, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("charge_order")
    write_parquet(frames, folder / "frames.parquet")
    build_reference(folder / "frames.parquet", host, folder)
    return folder
