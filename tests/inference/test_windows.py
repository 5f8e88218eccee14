"""Any image is segmented whole or in windows, with the same result and in bounded memory."""

import tracemalloc

import keras
import numpy as np
import pytest
from helpers import array, randomize, tiny_classifier

from dmformer_keras import DMFormerError
from dmformer_keras.data import resize_image
from dmformer_keras.inference import segment_image, segment_probabilities, windows

CLASSES = 4


def picture(height, width, channels=3, seed=0):
    """A photograph's like: smooth shapes and some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (4, 5, channels), dtype="uint8")
    noise = random.integers(-20, 21, (height, width, channels))
    return np.clip(resize_image(coarse, (height, width)) + noise, 0, 255).astype("uint8")


def convolutions(input_shape=(None, None, 3), classes=CLASSES, activation=None, dtype=None):
    """Three 3x3 convolutions: each output depends on 3 pixels to every side."""
    layers = [keras.Input(input_shape), keras.layers.Rescaling(1 / 127.5, -1, dtype=dtype)]
    for _ in range(2):
        layers.append(keras.layers.Conv2D(8, 3, padding="same", activation="relu", dtype=dtype))
    layers.append(
        keras.layers.Conv2D(classes, 3, padding="same", activation=activation, dtype=dtype)
    )
    return sharpened(keras.Sequential(layers))


def strided(upsampled=True):
    """Works at stride 8, as segmentation models do; each output depends on 28 pixels or less."""
    layers = [
        keras.Input((None, None, 3)),
        keras.layers.Rescaling(1 / 127.5, -1),
        keras.layers.Conv2D(8, 4, strides=4, padding="same", activation="relu"),
        keras.layers.Conv2D(8, 2, strides=2, padding="same", activation="relu"),
        keras.layers.Conv2D(CLASSES, 3, padding="same"),
    ]
    if upsampled:
        layers.append(keras.layers.UpSampling2D(8, interpolation="bilinear"))
    return sharpened(keras.Sequential(layers))


def sharpened(model, seed=0):
    """Random weights that make the classes differ clearly."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.3, tuple(variable.shape)))
    return model


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def whole(model, image):
    """What the model says of the whole image, without anything of this package."""
    return softmax(array(model(image[None].astype("float32")))[0])


class Fake:
    """Whatever function of windows, where a Keras model is expected; it notes their shapes."""

    def __init__(self, function):
        self.function = function
        self.shapes = []

    def predict_on_batch(self, images):
        self.shapes.append(images.shape)
        return self.function(images)


def brightness(images, classes=3):
    """Logits that are known for each pixel by itself."""
    values = images.mean(-1, keepdims=True) / 50
    return np.concatenate([np.sin(values + label) for label in range(classes)], -1)


# ---------------------------------------------------------------- windows and the whole


@pytest.mark.parametrize("size", [(200, 330), (97, 131)])
@pytest.mark.parametrize("overlap", [0.5, 0.34])
def test_windows_give_what_the_whole_image_gives(size, overlap):
    model, image = convolutions(), picture(*size)
    expected = whole(model, image)
    assert expected.std(axis=(0, 1)).min() > 0.05  # the model says something
    actual = segment_probabilities(model, image, window=96, overlap=overlap)
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    # The last windows are padded below and on the right, where the whole image ends.
    np.testing.assert_allclose(actual[:-3, :-3], expected[:-3, :-3], atol=1e-5)
    np.testing.assert_allclose(actual.sum(-1), 1, atol=1e-5)


@pytest.mark.once_under_torch
def test_windows_of_a_model_with_strides_give_what_the_whole_image_gives():
    model, image = strided(), picture(293, 350)
    padded = np.pad(image, ((0, 27), (0, 2), (0, 0)), mode="edge")  # to multiples of 32
    expected = whole(model, padded)[:293, :350]
    actual = segment_probabilities(model, image, window=(128, 160), overlap=0.75, batch_size=2)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    mask = segment_image(model, image, window=(128, 160), overlap=0.75)
    assert mask.dtype == np.uint8
    assert (mask == expected.argmax(-1)).mean() > 0.999


def test_an_image_that_is_not_large_is_shown_whole():
    image = picture(75, 90)
    for model in (convolutions(), strided(upsampled=False)):
        logits = array(model(image[None].astype("float32")))
        if logits.shape[1] != 75:
            logits = array(keras.ops.image.resize(logits, (75, 90), data_format="channels_last"))
        expected = softmax(logits[0])
        np.testing.assert_allclose(segment_probabilities(model, image), expected, atol=1e-5)
        assert (segment_image(model, image) == expected.argmax(-1)).mean() > 0.999


@pytest.mark.parametrize("activation", [None, "softmax"])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_logits_and_probabilities_are_told_apart(activation, dtype):
    image = picture(64, 96)
    model = convolutions(activation=activation, dtype=dtype)
    reference = convolutions()
    tolerance = 1e-5 if dtype == "float32" else 0.05
    expected = whole(reference, image)
    actual = segment_probabilities(model, image)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=tolerance)


def test_a_backbone_of_this_project_goes_through():
    backbone = randomize(tiny_classifier(input_shape=(64, 64, 3)).backbone)
    features = backbone.pyramid_outputs["P2"]
    model = keras.Model(backbone.input, keras.layers.Conv2D(CLASSES, 1)(features))
    image = picture(64, 64)
    logits = array(model(image[None].astype("float32")))
    resized = array(keras.ops.image.resize(logits, (64, 64), data_format="channels_last"))
    actual = segment_probabilities(model, image)
    np.testing.assert_allclose(actual, softmax(resized[0]), atol=1e-4)
    assert segment_image(model, picture(40, 130)).shape == (40, 130)


# ------------------------------------------------------------------------ how windows lie


@pytest.mark.backend_independent
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.8, 0.99])
@pytest.mark.parametrize("window", [32, 50, 64, 128, 200])
def test_weights_sum_to_one_and_no_window_counts_at_its_inner_edge(window, overlap):
    for side in (1, 31, 64, 65, 100, 193, 320, 511):
        positions = windows._positions(side, window, overlap)
        total = np.zeros(side)
        assert positions[0] == 0
        assert all(position % 32 == 0 for position in positions)
        assert side <= max(positions[-1] + window, window)
        assert positions[-1] + window < max(side + 32, window + 1)
        for index, start in enumerate(positions):
            weights = windows._weights(positions, index, window, side)
            assert weights.min() >= 0
            total[start : start + window] += weights
            for neighbor in (index - 1, index + 1):
                if 0 <= neighbor < len(positions):
                    margin = (window - abs(positions[neighbor] - start)) // 4
                    inner = weights[:margin] if neighbor < index else weights[window - margin :]
                    assert not inner.any()
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.backend_independent
def test_the_outer_part_of_a_window_is_discarded_exactly():
    def poisoned(images):
        logits = brightness(images)
        edge = np.ones(images.shape[1:3], bool)
        edge[16:-16, 16:-16] = False  # a quarter of the overlap of 64
        logits[:, edge] = [0, 0, 50]
        return logits

    image = picture(300, 340)
    clean = segment_probabilities(Fake(brightness), image, window=128)
    actual = segment_probabilities(Fake(poisoned), image, window=128)
    # At the image's own edges there is nothing but the window's edge.
    np.testing.assert_array_equal(actual[16:-16, 16:-16], clean[16:-16, 16:-16])
    assert (actual[:16, :, 2] > 0.99).all()


@pytest.mark.backend_independent
def test_the_ramp_between_two_windows_is_linear():
    numbers = iter(range(2))

    def constant(images):
        return np.full((*images.shape[:3], 2), [0.0, 1.0] if next(numbers) else [1.0, 0.0])

    image = np.zeros((32, 192, 3), "uint8")  # two windows of 128 that share 64
    values = segment_probabilities(Fake(constant), image, window=(32, 128))[0, :, 1]
    expected = np.clip((np.arange(192) + 0.5 - 64 - 16) / 32, 0, 1)
    np.testing.assert_allclose(values, expected, atol=1e-6)


@pytest.mark.backend_independent
def test_all_windows_have_one_shape():
    for size in ((40, 50), (100, 333), (500, 64)):
        model = Fake(brightness)
        mask = segment_image(model, picture(*size), window=(96, 64), batch_size=3, flip=True)
        assert mask.shape == size
        assert {shape[1:] for shape in model.shapes} == {(96, 64, 3)}
        assert len({shape[0] for shape in model.shapes}) == 1
    # Batches change nothing.
    image = picture(100, 333)
    one = segment_probabilities(Fake(brightness), image, window=64)
    four = segment_probabilities(Fake(brightness), image, window=64, batch_size=4)
    np.testing.assert_array_equal(one, four)


@pytest.mark.backend_independent
def test_large_images_go_through_windows_by_themselves():
    small, large, strip = Fake(brightness), Fake(brightness), Fake(brightness)
    segment_image(small, np.zeros((1024, 1024, 3), "uint8"))
    segment_image(large, np.zeros((1024, 1025, 3), "uint8"))
    segment_image(strip, np.zeros((100, 11000, 3), "uint8"))
    assert small.shapes == [(1, 1024, 1024, 3)]
    assert set(large.shapes) == {(1, 512, 512, 3)}
    assert set(strip.shapes) == {(1, 128, 512, 3)}


@pytest.mark.once_under_torch
def test_small_images_and_those_of_fixed_models_are_padded_and_cropped():
    model, fixed = convolutions(), convolutions(input_shape=(64, 96, 3))
    for size in ((5, 70), (20, 20), (1, 1)):
        image = picture(*size)
        missing = [(0, max(0, 32 - side)) for side in size]
        expected = whole(model, np.pad(image, (*missing, (0, 0)), mode="edge"))
        actual = segment_probabilities(model, image)
        np.testing.assert_allclose(actual, expected[: size[0], : size[1]], atol=1e-5)
    image = picture(50, 200)
    padded = np.pad(image, ((0, 14), (0, 0), (0, 0)), mode="edge")
    actual = segment_probabilities(fixed, image)
    np.testing.assert_allclose(actual[:, :-3], whole(model, padded)[:50, :-3], atol=1e-5)
    halfway = convolutions(input_shape=(64, None, 3))
    np.testing.assert_allclose(segment_probabilities(halfway, image), actual, atol=1e-5)


# ------------------------------------------------------------------ averages over views


@pytest.mark.once_under_torch
def test_flip_is_the_mean_with_the_mirror_image():
    model, image = convolutions(), picture(70, 90)
    mirrored = whole(model, image[:, ::-1])[:, ::-1]
    expected = (whole(model, image) + mirrored) / 2
    assert np.abs(mirrored - expected).max() > 0.01
    actual = segment_probabilities(model, image, flip=True)
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    windows = segment_probabilities(model, picture(200, 330), flip=True, window=96)
    at_once = segment_probabilities(model, picture(200, 330), flip=True)
    np.testing.assert_allclose(windows[:-3, 3:-3], at_once[:-3, 3:-3], atol=1e-5)


@pytest.mark.once_under_torch
@pytest.mark.parametrize("window", [None, 96])
def test_scales_are_the_mean_over_resized_images(window):
    model, image = convolutions(), picture(150, 203)
    expected = 0
    for size in ((75, 102), (150, 203), (225, 304)):
        seen = image if size == (150, 203) else resize_image(image, size, "squash")
        probabilities = whole(model, seen)
        resized = keras.ops.image.resize(
            probabilities[None], (150, 203), data_format="channels_last"
        )
        expected = expected + array(resized)[0] / 3
    actual = segment_probabilities(model, image, scales=(0.5, 1.0, 1.5), window=window)
    inner = slice(None, -8) if window else slice(None)
    np.testing.assert_allclose(actual[inner, inner], expected[inner, inner], atol=1e-5)
    mask = segment_image(model, image, scales=(0.5, 1.0, 1.5), window=window)
    np.testing.assert_array_equal(mask, actual.argmax(-1))


@pytest.mark.backend_independent
def test_of_equal_classes_the_lowest_is_taken():
    tied = Fake(lambda images: np.full((*images.shape[:3], 5), [0, 1, 1, 0, 1], "float32"))
    image = picture(333, 200)
    mask = segment_image(tied, image, window=64, flip=True, scales=(0.7, 1.3), overlap=0.6)
    assert (mask == 1).all()


@pytest.mark.backend_independent
@pytest.mark.parametrize(("classes", "dtype"), [(255, "uint8"), (256, "uint16")])
def test_masks_take_16_bits_where_they_need_them(classes, dtype):
    logits = np.zeros(classes)
    logits[-1] = 9
    model = Fake(lambda images: np.full((*images.shape[:3], classes), logits))
    mask = segment_image(model, picture(32, 32))
    assert mask.dtype == dtype
    assert (mask == classes - 1).all()


@pytest.mark.backend_independent
def test_logits_may_be_large():
    model = Fake(lambda images: 1e4 * brightness(images))
    image = picture(40, 40)
    expected = brightness(image[None])[0].argmax(-1)
    assert (segment_image(model, image) == expected).mean() > 0.99


# --------------------------------------------------------------------------------- memory


@pytest.mark.backend_independent
@pytest.mark.parametrize("views", [{}, {"flip": True, "scales": (0.5, 1.0)}])
def test_memory_does_not_grow_with_the_images_height(views):
    def peak(height):
        image = np.zeros((height, 256, 3), "uint8")
        model = Fake(lambda images: np.zeros((*images.shape[:3], 16), "float32"))
        tracemalloc.start()
        segment_image(model, image, window=64, **views)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = peak(256), peak(2048)
    mask, resized, probabilities = (size * 2048 * 256 for size in (1, 3, 4 * 16))
    # The mask, and the image at another scale, are as large as they are.
    assert large < small + 2 * mask + (resized if views else 0) < small + probabilities / 10


# --------------------------------------------------------------------------------- errors


@pytest.mark.once_under_torch
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_refused(value):
    model = convolutions()
    model.layers[-1].bias.assign([0.0, value, 0.0, 0.0])  # one class of several
    with pytest.raises(DMFormerError, match="not finite"):
        segment_image(model, picture(64, 64))


@pytest.mark.once_under_torch
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"overlap": 1.0}, "overlap must be at least 0 and less than 1, not 1.0"),
        ({"overlap": -0.1}, "overlap must be"),
        ({"overlap": None}, "overlap must be"),
        ({"scales": ()}, "scales must be"),
        ({"scales": (1.0, 0)}, "positive numbers"),
        ({"scales": 1.5}, "scales must be"),
        ({"window": 31}, "at least 32"),
        ({"window": (64, 20)}, "at least 32"),
        ({"window": (64, 64, 3)}, "height, width"),
        ({"window": 96.5}, "window must be"),
        ({"window": 10**6}, "window must be of at most 134,217,728 pixels"),
        ({"scales": (1.0, 1e4)}, "10000.0 makes it 640,000 x 640,000"),
        ({"flip": 1}, "flip must be True or False"),
        ({"batch_size": 0}, "batch_size must be a positive integer"),
    ],
)
def test_wrong_arguments_are_named_before_work_starts(arguments, words):
    model = Fake(brightness)
    for segment in (segment_image, segment_probabilities):
        with pytest.raises(DMFormerError, match=words):
            segment(model, picture(64, 64), **arguments)
    assert not model.shapes


@pytest.mark.once_under_torch
def test_models_and_images_that_do_not_fit_are_named():
    image = picture(64, 64)
    inputs = keras.Input((None, None, 3))
    two = keras.Model(inputs, [inputs, inputs])
    inputs = keras.Input((3, None, None))
    channels_first = keras.Model(inputs, keras.layers.Permute((1, 3, 2))(inputs))
    for model, wrong, words in [
        ("model", image, "must be a Keras model"),
        (tiny_classifier(), image, r"shape \(None, 5\), where a map"),
        (Fake(lambda images: images.mean((1, 2))), image, r"shape \(1, 3\), where a map"),
        (Fake(lambda images: images[..., :1]), image, "at least 2 classes"),
        (convolutions(classes=1), image, "at least 2 classes"),
        (channels_first, image, r"\(None, 3, None, None\), where"),
        (two, image, "2 outputs, where one was expected"),
        (convolutions(), image[..., :1], "has 1 channels and the model takes 3"),
        (convolutions(), image[..., 0], "must be a uint8 array"),
        (convolutions(), image / 255, "must be a uint8 array"),
        (convolutions(), image[:0], "must be a uint8 array"),
        (convolutions(), "cat.jpg", "load_image reads it, not 'cat.jpg'"),
    ]:
        with pytest.raises(DMFormerError, match=words):
            segment_image(model, wrong)
    with pytest.raises(DMFormerError, match="leave window out"):
        segment_image(convolutions(input_shape=(64, 64, 3)), image, window=96)
