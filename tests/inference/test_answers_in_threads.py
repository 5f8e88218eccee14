"""One Keras model, many threads: each gets what it asked for."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from helpers import randomize, tiny_backbone, tiny_classifier

import dmformer_keras

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


def classes(model, picture):
    return [share for _, share in sorted(dmformer_keras.classify(model, picture))]
