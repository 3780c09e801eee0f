"""The promises of ``models/contract.py`` as functions that anyone can call for an adapter.

Each check builds small untrained networks in double precision for the olivine NaxFePO4 and raises
AssertionError if a promise is broken. In a test suite::

    import pytest
    from workflow_lib.models.testing import POTENTIAL_CHECKS, Subject

    SUBJECT = Subject(MyPotential, MyHyperparameters, small={"features": 8})

    @pytest.mark.parametrize("check", POTENTIAL_CHECKS, ids=lambda check: check.__name__)
    def test_contract(check):
        check(SUBJECT)

or, without pytest, ``check_potential(SUBJECT)``, which runs all and reports every failure at once.
``check_predictor`` does the same for what is used rather than trained (``models/predictor.py``).
"""

from workflow_lib.models.testing.potential import POTENTIAL_CHECKS, check_potential
from workflow_lib.models.testing.predictor import check_predictor
from workflow_lib.models.testing.structures import SPECIES, olivine, structure
from workflow_lib.models.testing.subject import Subject, close, evaluate

__all__ = [
    "POTENTIAL_CHECKS",
    "SPECIES",
    "Subject",
    "check_potential",
    "check_predictor",
    "close",
    "evaluate",
    "olivine",
    "structure",
]
