"""A photograph of 108 million pixels: how much memory an answer takes."""

import json
import os

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="measures memory as Linux tells it"
)

WRITE = """
import numpy as np
from PIL import Image

rows = np.linspace(0, 255, 9000, dtype="uint8")[:, None]
red = np.repeat(rows, 12_000, 1)
Image.merge("RGB", [Image.fromarray(red)] * 3).save("photo.jpg", quality=60)
"""

MEASURE = """
import json, sys, warnings

import keras
import numpy as np
from PIL import Image

import dmformer_keras
from dmformer_keras.data.images import check_image_file, load_image
from dmformer_keras.inference.mask_pictures import draw_overlay
from dmformer_keras.system.memory import forget_peak, peak_resident, resident_now
from helpers import tiny_backbone, tiny_classifier

warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=DeprecationWarning)  # of other libraries
told = {}

def measured(name, function):
    forget_peak()
    before = resident_now()
    found = function()
    told[name] = (peak_resident() - before) / 2**20
    told[name + " in all"] = peak_resident() / 2**20
    return found

small = np.zeros((64, 64, 3), "uint8")
"""

CLASSIFY = """
model = tiny_classifier(2)
dmformer_keras.classify(model, small)
measured("check", lambda: check_image_file("photo.jpg", fully=True))
(name, share), *_ = measured("classify", lambda: dmformer_keras.classify(model, "photo.jpg"))
print(json.dumps(told))
"""

SEGMENT = """
model = dmformer_keras.SemanticFPN(tiny_backbone(input_shape=(None, None, 3)), 3, head_channels=8)
dmformer_keras.segment(model, small)
mask = measured("segment", lambda: dmformer_keras.segment(model, "photo.jpg", window=1000,
                                                           overlap=0.0))
assert mask.shape == (9000, 12_000)
photo = load_image("photo.jpg")
measured("overlay", lambda: draw_overlay(photo, mask))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    run_python(WRITE, folder=folder)
    return folder


def told(code, folder):
    path = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *os.sys.path])
    return json.loads(run_python(MEASURE + code, folder=folder, PYTHONPATH=path).splitlines()[-1])


@pytest.mark.once_under_torch
def test_to_classify_it_takes_a_part_of_it(folder):
    found = told(CLASSIFY, folder)
    assert found["check"] < 300, found
    assert found["classify"] < 300, found


@pytest.mark.slow
def test_to_segment_it_takes_little_more_than_its_pixels(folder):
    found = told(SEGMENT, folder)
    assert found["segment"] < 900, found
    assert found["overlay"] < 600, found
