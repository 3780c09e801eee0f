"""A small case on disk, and the toy family for as long as a test runs."""

import pytest
from toy_potential import register
from training_case import write_case

from workflow_lib.models.registry import FAMILIES


@pytest.fixture(autouse=True)
def toy_family():
    register()
    yield
    FAMILIES.pop("toy", None)


@pytest.fixture
def case(tmp_path, original_frames, rule):
    """Folder with frames.parquet, splits.json and rule.json."""
    write_case(tmp_path, original_frames)
    (tmp_path / "rule.json").write_text(rule.model_dump_json())
    return tmp_path
