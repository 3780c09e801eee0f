"""The local API with the two files of ``fetching``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fetching import FILES
from local_api import LocalApi, serve


@pytest.fixture
def api() -> Iterator[LocalApi]:
    with serve(FILES) as server:
        yield server
