"""Converts a classifier to TFLite in float32 and int8, and runs both with LiteRT.

    python examples/tflite.py PHOTO...
    python examples/tflite.py --model runs/photos --data photos/ PHOTO...

The ranges of the int8 file are measured on the images of --data, or on the photos themselves. Needs
the extra `tensorflow`, under any Keras backend.
"""

import argparse
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import dmformer_keras
from dmformer_keras.data import load_image
from dmformer_keras.export import to_tflite
from dmformer_keras.training import image_size_of, to_probabilities


def run(path, image, activation):
    """Returns the probabilities that a TFLite file predicts for one image of its size."""
    interpreter = Interpreter(str(path), num_threads=2)
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    # The input is pixels in 0..255, as float32, also in the int8 file.
    interpreter.set_tensor(given["index"], image[None].astype(given["dtype"]))
    interpreter.invoke()
    return to_probabilities(interpreter.get_tensor(wanted["index"]), activation)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", nargs="+", metavar="PHOTO")
    parser.add_argument("--model", default="dmformer_n_imagenette", help="preset, folder, .keras")
    parser.add_argument("--data", help="images to measure the ranges of the int8 file on")
    parser.add_argument("--output", type=Path, default=Path("classifier.tflite"))
    arguments = parser.parse_args()

    model = dmformer_keras.load(arguments.model)
    size = image_size_of(model)
    photos = [load_image(path, size) for path in arguments.photos]
    examples = arguments.data or np.stack(photos)
    small = arguments.output.with_suffix(".int8.tflite")
    shape = (*size, 3)
    to_tflite(model, arguments.output, input_shape=shape)
    to_tflite(model, small, input_shape=shape, quantization="int8", representative_data=examples)
    for file in (arguments.output, small):
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    for path, photo in zip(arguments.photos, photos, strict=True):
        for file in (arguments.output, small):
            probabilities = run(file, photo, model.activation)
            best = probabilities.argmax()
            print(f"{path}: {model.class_names[best]} {probabilities[best]:.0%} ({file})")
    print(f"saved to {arguments.output}")


if __name__ == "__main__":
    main()
