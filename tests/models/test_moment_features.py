"""The features behind the moments are those that the head turns into moments."""

import numpy as np
import torch
from ase.build import bulk

from workflow_lib.models.moment_features import moment_features
from workflow_lib.models.outside import AsePredictor, import_calculator, load_predictor
from workflow_lib.models.trained import TrainedModel


def test_the_head_makes_the_moments_of_them():
    model = load_predictor("chgnet-0.2.0")
    assert isinstance(model, TrainedModel)
    structures = [bulk("FeO", "rocksalt", a=4.3, cubic=True), bulk("FeO", "rocksalt", a=4.5)]
    found = moment_features(model, structures)
    assert found is not None
    for atoms, features in zip(structures, found, strict=True):
        assert features.shape == (len(atoms), 64)
        [prediction] = model.predict([atoms])
        with torch.no_grad():
            moments = model.potential.net.site_wise(torch.as_tensor(features)).abs().squeeze(-1)
        # One float32 matrix product, in a batch of its own.
        assert np.allclose(moments, prediction.magmoms, atol=1e-5)
        assert np.abs(features - prediction.embeddings).max() > 0.01  # before the last convolution
    assert not model.potential.net.site_wise._forward_pre_hooks


def test_a_calculator_shows_none():
    predictor = AsePredictor(import_calculator("ase.calculators.emt:EMT"), "emt")
    assert moment_features(predictor, [bulk("Cu")]) is None
