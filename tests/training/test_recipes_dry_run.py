"""The recipes for large data, a few steps on made-up images of the right shape."""

import dataclasses
import json

import numpy as np
import pytest
from helpers import TINIEST, tiny_backbone

from dmformer_keras.training import Recipe, SegmentationRecipe, train

tfds = pytest.importorskip("tensorflow_datasets")
pytestmark = pytest.mark.slow


class ManyClasses(tfds.core.GeneratorBasedBuilder):
    """Photographs of ImageNet's sizes and number of classes, under its names of features."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=1000),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(16), "validation": self._generate_examples(4)}

    def _generate_examples(self, number):
        rng = np.random.default_rng(number)
        for index in range(number):
            size = (int(rng.integers(200, 500)), int(rng.integers(200, 500)), 3)
            image = rng.integers(0, 256, size, "uint8")
            yield index, {"image": image, "label": index * 61, "file_name": f"{index}.JPEG"}


class ManyRegions(tfds.core.GeneratorBasedBuilder):
    """Photographs of ADE20K's sizes, with masks of its number of classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        names = ["void", *(f"class {number}" for number in range(1, 151))]
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "segmentation_mask": tfds.features.LabeledImage(labels=names, shape=(None, None, 1)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

    def _generate_examples(self, number):
        rng = np.random.default_rng(number)
        for index in range(number):
            height, width = (int(side) for side in rng.integers(300, 700, 2))
            coarse = rng.integers(0, 151, (height // 50 + 1, width // 50 + 1))
            mask = np.kron(coarse, np.ones((50, 50)))[:height, :width, None]
            image = rng.integers(0, 256, (height, width, 3), "uint8")
            yield index, {"image": image, "segmentation_mask": mask.astype("uint8")}


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    tiny_backbone(input_shape=(None, None, 3), **TINIEST).save_to_preset(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "name", "builder"),
    [
        (Recipe, "imagenet", ManyClasses),
        (SegmentationRecipe, "ade20k_semantic_fpn", ManyRegions),
        (SegmentationRecipe, "ade20k_upernet", ManyRegions),
    ],
)
def test_a_recipe_trains_on_data_of_its_shape(kind, name, builder, preset, tmp_path, monkeypatch):
    builder(data_dir=tmp_path / "tfds").download_and_prepare()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    recipe = kind.named(name)
    # As it is, but for the length and the number of images at once.
    recipe = dataclasses.replace(recipe, epochs=1, batch_size=2, warmup_epochs=0.5)
    source = f"tfds:{builder.name}"
    train(recipe, preset, source, tmp_path / "run", tensorboard=True, verbose=0)
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["epochs"] == 1
    assert report["validation"]["examples"] == (4 if kind is Recipe else 2)
    assert any((tmp_path / "run" / "tensorboard").rglob("events.out.tfevents.*"))
