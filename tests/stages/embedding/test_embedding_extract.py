"""Which state is followed, and the network as it was before training."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from workflow_lib.core.errors import UserError
from workflow_lib.frames.frame import Frame, frame_to_atoms
from workflow_lib.lattice.host import Host
from workflow_lib.lattice.redox import RedoxRule
from workflow_lib.models.registry import FAMILIES
from workflow_lib.models.species import species_alphabet
from workflow_lib.models.trained import TrainedModel, species_from_card, species_to_card
from workflow_lib.simulation.settings import Stop
from workflow_lib.stages.embedding.extract import follow_relaxation, reference_key, untrained


def test_reference_arrangement():
    # A larger cell has the lower energy without being the lower state.
    table = pd.DataFrame(
        {
            "x": [0.5, 0.5, 0.5, 1.0],
            "energy_ev": [-1.0, -2.0, -5.0, -9.0],
            "formation_mev_fu": [5.0, -5.0, 3.0, 0.0],
            "state_key": ["a", "b", "larger", "c"],
        }
    )
    assert reference_key(table, None, 0.5) == "b"
    assert reference_key(table, "named", 0.5) == "named"


def test_a_relaxation_is_followed_only_with_a_charge_order(host: Host):
    for key, message in (("1x1x1:Na1001", "names no charge order"), ("Na1001", "no state key")):
        with pytest.raises(UserError, match=message):
            follow_relaxation(
                None,
                host,
                key,
                polaron_distortion=0.06,
                stop=Stop(fmax=0.05, max_steps=3),
                redox_z=26,
                kept=None,
            )


def test_untrained_pretrained_network_is_the_shipped_one(rule: RedoxRule, frames: list[Frame]):
    # The surrogate's row starts as a copy of Fe's: unlike a network from scratch, shipped weights
    # do not separate the labels by construction.
    hyperparameters = FAMILIES["chgnet"].hyperparameters()
    card = {"family": "chgnet", "init": "pretrained", "seed": 1, "redox": rule.model_dump()}
    card |= {
        "hyperparameters": hyperparameters.model_dump(),
        "energy_reference": frames[0].energy_reference,
        "training": {"steps": 0},
    }
    answers = []
    for embedding in ("none", "surrogate"):
        species = species_to_card(species_alphabet(rule, (8, 11, 15, 26), embedding))
        own = card | {"redox_embedding": embedding, "species": species}
        network = (
            FAMILIES["chgnet"]
            .load()
            .build(hyperparameters, species_from_card(species), init="pretrained", seed=1)
        )
        model = untrained(TrainedModel(network, own))
        half = next(frame for frame in frames if frame.state_key == "1x1x1:Na1001:Fe2323")
        answers.append(model.predict([frame_to_atoms(half)])[0].embeddings)
    # The same weights on the same numbers, in float32.
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
