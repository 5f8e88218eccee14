"""One Keras model, many threads: each gets what it asked for."""

import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from helpers import randomize, tiny_backbone, tiny_classifier

import dmformer_keras
from dmformer_keras.inference.model_outputs import predicted

THREADS = 8


def test_eight_threads_predict_from_one_classifier():
    model = randomize(tiny_classifier(5, class_names=list("abcde")))
    pictures = np.random.default_rng(0).integers(0, 256, (THREADS, 64, 64, 3), np.uint8)
    pictures[: THREADS // 2] //= 8
    # The first calls, too, come together.
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda index: classes(model, pictures[index % 8]), range(48)))
    expected = [classes(model, picture) for picture in pictures]
    assert len({tuple(np.round(one, 4)) for one in expected}) == THREADS
    for index, one in enumerate(found):
        np.testing.assert_allclose(one, expected[index % 8], atol=1e-5)


def test_eight_threads_segment_with_one_segmenter():
    backbone = tiny_backbone(input_shape=(None, None, 3))
    model = randomize(dmformer_keras.SemanticFPN(backbone, 4, head_channels=8))
    pictures = np.random.default_rng(0).integers(0, 256, (THREADS, 64, 96, 3), np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda picture: dmformer_keras.segment(model, picture), pictures))
    for mask, picture in zip(found, pictures, strict=True):
        assert (mask == dmformer_keras.segment(model, picture)).mean() > 0.999


@pytest.mark.skipif(keras.config.backend() == "torch", reason="predicts several at once")
def test_one_thread_predicts_at_a_time(monkeypatch):
    model = tiny_classifier(5)
    together, most = 0, 0

    def predict_on_batch(images):
        nonlocal together, most
        together += 1
        most = max(most, together)
        time.sleep(0.01)
        together -= 1
        return np.full((len(images), 5), 0.2)

    monkeypatch.setattr(model, "predict_on_batch", predict_on_batch)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda _: predicted(model, np.ones((1, 64, 64, 3))), range(2 * THREADS)))
    assert most == 1


def classes(model, picture):
    return [share for _, share in sorted(dmformer_keras.classify(model, picture))]
