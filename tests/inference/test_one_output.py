"""A classifier of one output, as binary cross-entropy trains it, is of two classes everywhere."""

import dataclasses

import keras
import numpy as np
import pytest
from helpers import TINIEST, array, randomize, tiny_classifier

from dmformer_keras import DMFormerClassifier, DMFormerError, SemanticFPN, classify, explain, fuse
from dmformer_keras.data import open_source
from dmformer_keras.export import compare_exported, load_exported
from dmformer_keras.inference.model_outputs import class_names_of
from dmformer_keras.training import evaluate, to_probabilities


@pytest.fixture(scope="module", params=[None, "sigmoid"])
def model(request):
    """Says no of the first images and yes of the last ones."""
    backbone = tiny_classifier(**TINIEST).backbone
    model = randomize(DMFormerClassifier(backbone, 1, activation=request.param))
    logits = model.head.get_layer("logits")
    found = array(model(photographs().astype("float32")))[:, 0]
    found = np.log(found / (1 - found)) if request.param else found
    scale = 2 / np.ptp(found)  # of the sigmoid's slope
    logits.kernel.assign(array(logits.kernel) * scale)
    logits.bias.assign((array(logits.bias) - np.median(found)) * scale)
    return model


def photographs():
    return np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), "uint8")


def second_class(model):
    """The probability of the second class, by the formula."""
    outputs = np.asarray(model.predict(photographs().astype("float32"), verbose=0), np.float64)
    return outputs[:, 0] if model.activation == "sigmoid" else 1 / (1 + np.exp(-outputs[:, 0]))


def check_answers(model, expected):
    for found, share in zip(classify(model, list(photographs())), expected, strict=True):
        names = ("1", "0") if share > 0.5 else ("0", "1")
        assert tuple(name for name, _ in found) == names
        assert dict(found)["1"] == pytest.approx(share, abs=1e-4)
        assert sum(dict(found).values()) == pytest.approx(1)


def test_it_is_classified_and_measured_by_the_sigmoid(model):
    expected = second_class(model)
    assert expected.min() < 0.45 < 0.55 < expected.max()
    check_answers(model, expected)
    check_answers(fuse(model), expected)
    labels = (expected > 0.5).astype(int)
    labels[0] = 1 - labels[0]
    evaluation = evaluate(model, open_source((photographs(), labels, ["no", "yes"]), "all"))
    assert evaluation.top1 == pytest.approx(5 / 6)
    of_truth = np.where(labels == 1, expected, 1 - expected)
    assert evaluation.loss == pytest.approx(-np.log(of_truth).mean(), rel=1e-4)


def test_it_is_explained_for_either_class(model):
    shares = second_class(model)
    for index in (shares.argmin(), shares.argmax()):
        image, share = photographs()[index], shares[index]
        likeliest = explain.grad_cam(model, image)
        assert likeliest.class_index == int(share > 0.5)
        second, first = (explain.grad_cam(model, image, label) for label in (1, 0))
        whole = 1.0 if model.activation == "sigmoid" else 0.0
        assert first.score == pytest.approx(whole - second.score, abs=1e-5)
        # What speaks for one class speaks against the other.
        assert (first.heatmap * second.heatmap).max() < 0.5
    with pytest.raises(DMFormerError, match="from 0 to 1"):
        explain.grad_cam(model, photographs()[0], 2)


@pytest.mark.backend_independent
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (None, "tflite"),
        *(("sigmoid", kind) for kind in ("tflite", "onnx", "xml", "saved_model")),
    ],
    indirect=["model"],
)
def test_every_export_says_the_same(model, kind, tmp_path):
    from dmformer_keras import export

    package = {"tflite": "ai_edge_litert", "onnx": "onnxruntime", "xml": "openvino"}
    pytest.importorskip(package.get(kind, "tensorflow"))
    write = {"xml": export.to_openvino}.get(kind) or getattr(export, f"to_{kind}")
    name = "model" if kind == "saved_model" else f"model.{kind}"
    path = write(model, tmp_path / name, verify=False)
    exported = load_exported(path)
    assert exported.description["output"]["threshold"] == (0.5 if model.activation else 0.0)
    check_answers(exported, second_class(model))
    if kind == "saved_model":
        check_served(path, second_class(model))


def check_served(path, expected):
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    files = [tf.io.encode_png(image) for image in photographs()]
    served = serve(encoded=tf.stack(files))
    np.testing.assert_allclose(served["probabilities"].numpy()[:, 1], expected, atol=1e-4)
    np.testing.assert_array_equal(served["class"].numpy(), expected > 0.5)


@pytest.mark.once_under_torch
def test_both_classes_have_names():
    backbone = tiny_classifier(**TINIEST).backbone
    assert class_names_of(DMFormerClassifier(backbone, 1)) == ["0", "1"]
    one = DMFormerClassifier(backbone, 1, class_names=["cat"])
    assert class_names_of(one) == ["not cat", "cat"]
    both = DMFormerClassifier(backbone, 1, class_names=["dog", "cat"])
    assert class_names_of(both) == ["dog", "cat"]
    labels = np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(DMFormerError, match="The model knows 2 classes"):
        evaluate(both, open_source((photographs(), labels, ["cat", "dog"]), "all"))
    with pytest.raises(DMFormerError, match="3 names"):
        DMFormerClassifier(backbone, 1, class_names=["a", "b", "c"])


@pytest.mark.once_under_torch
def test_comparison_counts_the_sides_of_the_threshold(model):
    @dataclasses.dataclass
    class Shifted:
        """An export of outputs that are all on the second class's side."""

        description: dict
        output: keras.KerasTensor

        def predict_on_batch(self, images):
            return np.asarray(model.predict(images, verbose=0)) + 10

    activation = model.activation or "linear"
    threshold = {"linear": 0.0, "sigmoid": 0.5}[activation]
    shifted = Shifted({"output": {"activation": activation, "threshold": threshold}}, model.output)
    found = compare_exported(model, shifted, photographs())
    assert found["top1_agreement"] == pytest.approx((second_class(model) > 0.5).mean())


@pytest.mark.once_under_torch
def test_what_one_output_cannot_mean_is_refused():
    with pytest.raises(DMFormerError, match="where logits or a sigmoid were expected"):
        to_probabilities(np.ones((2, 1)), "softmax")
    with pytest.raises(DMFormerError, match="where logits or a softmax were expected"):
        to_probabilities(np.ones((2, 3)), "sigmoid")
    backbone = tiny_classifier(input_shape=(None, None, 3)).backbone
    from dmformer_keras import segment

    with pytest.raises(DMFormerError, match="at least 2 classes"):
        segment(SemanticFPN(backbone, 1, head_channels=8), photographs()[0])
