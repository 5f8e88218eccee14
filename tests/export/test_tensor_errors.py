import pytest
from helpers import TINIEST, array, images, randomize, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.export import layer_errors, to_tflite

pytest.importorskip("tensorflow", reason="TFLite conversion needs TensorFlow")
pytest.importorskip("ai_edge_litert", reason="running TFLite files needs ai-edge-litert")
pytestmark = pytest.mark.backend_independent


def test_the_layer_that_loses_accuracy_is_seen(tmp_path):
    model = randomize(tiny_classifier(**TINIEST))
    x = images(8, 64, 64, 3)
    # One channel a thousand times as large as the others: int8 has no steps left for them.
    expand = next(w for w in model.weights if "stage3" in w.path and "mlp_project/bias" in w.path)
    value = array(expand)
    value[0] = 3000
    expand.assign(value)
    plain = to_tflite(model, tmp_path / "plain.tflite", verify=False)
    options = {"representative_data": x, "verify": False}
    small = to_tflite(model, tmp_path / "small.tflite", "int8", **options)
    errors = layer_errors(plain, small, x)
    # A gate's values hardly change from image to image, which makes any error look great.
    convolutions = [error for error in errors if error.operator == "CONV_2D"]
    first = next(error for error in convolutions if error.channel_error > 0.5)
    assert "stage3_block1" in first.name
    assert "mlp_project" in first.name
    # Over all channels together the great one hides what the others lost.
    assert first.relative_error < 0.01
    assert max(error.relative_error for error in errors) < 0.2
    assert all(error.relative_error == 0 for error in layer_errors(plain, plain, x[:2]))
    assert {"CONV_2D", "DEPTHWISE_CONV_2D"} <= {error.operator for error in errors}


def test_files_that_cannot_be_compared_are_named(exported, tmp_path):
    _, path = exported
    with pytest.raises(DMFormerError, match="takes images of shape"):
        layer_errors(path, path, images(1, 32, 64, 3))
    with pytest.raises(DMFormerError, match="There is no file"):
        layer_errors(path, tmp_path / "absent.tflite", images(1, 64, 64, 3))
