"""One file of a tiny classifier, which several tests look at."""

import pytest
from helpers import TINIEST, randomize, tiny_classifier

from dmformer_keras.export import to_tflite


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """(model, its TFLite file), for tests that change neither."""
    pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
    model = randomize(tiny_classifier(**TINIEST))
    path = tmp_path_factory.mktemp("exported") / "model.tflite"
    return model, to_tflite(model, path, verify=False)
