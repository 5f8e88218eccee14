"""`dmformer quickstart`"""

import json
import shlex
import time
from pathlib import Path

import numpy as np

from dmformer_keras.cli.arguments.quickstart import add_arguments
from dmformer_keras.cli.options import percent, print_metrics
from dmformer_keras.cli.train import after_interruption, progress_style
from dmformer_keras.data import load_example, open_source
from dmformer_keras.errors import DMFormerError
from dmformer_keras.training import Recipe, evaluate, image_size_of, load_classifier, train
from dmformer_keras.training.figures import draw_confusion_matrix
from dmformer_keras.training.run_report import CONFUSION_FILE, CURVES_FILE, REPORT_FILE

__all__ = ["add_arguments", "after_interruption", "run"]

LEAST_ACCURACY = 0.97
LEAST_AGREEMENT = 0.995
PRESET = "dmformer_n"
SAMPLES_FOLDER = "samples"
TFLITE_FILE = "model.tflite"
TEST_CONFUSION_FILE = "test_confusion_matrix.png"


def run(args):
    """Trains, measures, exports, compares, and says what was made."""
    recipe = Recipe(
        epochs=args.epochs,
        batch_size=64,
        image_size=32,
        channels=1,
        learning_rate=3e-3,
        augmentation="light",
        label_smoothing=0.05,
        seed=args.seed,
    )
    started = time.perf_counter()
    output = Path(args.output)
    print("1/4 Training DMFormer-N on handwritten digits", flush=True)
    train(
        recipe,
        PRESET,
        "digits",
        output,
        resume=args.resume,
        command=args.command_line,
        verbose=progress_style(),
    )
    print("\n2/4 Measuring it on the test digits, which it has never seen", flush=True)
    model = load_classifier(output)
    test = open_source("digits", "test", channels=1)
    evaluation = evaluate(model, test, progress=True)
    print_metrics(evaluation)
    draw_confusion_matrix(
        evaluation,
        output / TEST_CONFUSION_FILE,
        f"Test: top-1 {evaluation.top1:.1%} of {evaluation.examples} images",
    )
    print("\n3/4 Converting it to TFLite and running that on every test digit", flush=True)
    compared = _export_and_compare(model, test, output / TFLITE_FILE)
    print("\n4/4 Saving a few test digits as pictures to try", flush=True)
    _save_samples(test, output / SAMPLES_FOLDER)
    _print_what_was_made(output, time.perf_counter() - started)
    _check_results(evaluation, compared)


def _export_and_compare(model, test, path):
    from dmformer_keras.export import report_path, to_tflite

    size = image_size_of(model)
    images = np.stack([load_example(test, i, size, None, 0, 0)[0] for i in range(len(test))])
    to_tflite(model, path, images=images)
    report = json.loads(report_path(path).read_text(encoding="utf-8"))
    compared = report["compared"]
    print(
        f"{path.name}: {report['bytes'] / 1e6:.1f} MB, the same digit as Keras on "
        f"{percent(compared['top1_agreement'])} of {len(test)} images, outputs apart by at most "
        f"{compared['max_difference']:.2g}, {report['latency_ms']['1']:.1f} ms per image"
    )
    return compared


def _save_samples(test, folder):
    """Writes the first test image of each of the digits as a PNG."""
    from PIL import Image

    folder.mkdir(exist_ok=True)
    for label, name in enumerate(test.class_names):
        image, _ = test.read(int(np.flatnonzero(test.labels == label)[0]))
        Image.fromarray(image[..., 0]).save(folder / f"digit_{name}.png")


def _print_what_was_made(output, seconds):
    folder = shlex.quote(str(output))
    print(f"\nDone in {seconds:.0f} s. In {output}:")
    print("  the model (a preset folder), history.csv")
    print(f"  {CURVES_FILE}, {CONFUSION_FILE}, {TEST_CONFUSION_FILE}, {REPORT_FILE}")
    print(f"  {TFLITE_FILE}, and {SAMPLES_FOLDER}/ to try it on")
    print("Next:")
    print(f"  dmformer predict {folder} {folder}/{SAMPLES_FOLDER} --top 1")
    print(f"  dmformer evaluate {folder} --data digits --split test")
    print(
        "  dmformer train --data FOLDER_OF_CLASS_FOLDERS --preset dmformer_t_mix --recipe auto "
        "--output runs/mine"
    )


def _check_results(evaluation, compared):
    if evaluation.top1 < LEAST_ACCURACY:
        raise DMFormerError(
            f"The test accuracy is {percent(evaluation.top1)}, where {percent(LEAST_ACCURACY)} "
            "was expected; train for more epochs (--epochs)."
        )
    if compared["top1_agreement"] < LEAST_AGREEMENT:
        raise DMFormerError(
            f"The TFLite model names the same digit as Keras on "
            f"{percent(compared['top1_agreement'])} only; please report this."
        )
