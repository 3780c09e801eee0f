"""Every family in the registry keeps the contract."""

import conformance
import pytest

from workflow_lib.models.registry import FAMILIES


@pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__[6:])
@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family, check):
    check(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_save_and_load(family, tmp_path):
    conformance.check_save_and_load(family, tmp_path / "model")
