"""Draws the README's picture by the shipped weights: `python docs/figures/what_it_does.py`.

The photograph comes with scikit-learn: danielbuechele, CC BY 2.0.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_image

import dmformer_keras
from dmformer_keras.data import resize_image
from dmformer_keras.explain import grad_cam

HEIGHT = 300
CAPTION = 34


def segmented(photo):
    """The photograph under the colors of its classes, and the classes that fill the most."""
    model = dmformer_keras.load("dmformer_t_camvid")
    mask = dmformer_keras.segment(model, photo, scales=(0.5, 0.75, 1.0), flip=True)
    colors = np.array(model.class_colors, np.uint8)[mask]
    shares = np.bincount(mask.ravel(), minlength=len(model.class_names)) / mask.size
    most = [model.class_names[index] for index in np.argsort(-shares)[:3]]
    return (0.4 * photo + 0.6 * colors).astype(np.uint8), "dmformer_t_camvid: " + ", ".join(most)


def explained(photo):
    """The photograph under its Grad-CAM, and the likeliest class."""
    model = dmformer_keras.load("dmformer_t_imagenette")
    ((name, probability),) = dmformer_keras.classify(model, photo, top=1)
    # The whole photograph, so that the heat lies where it belongs.
    squashed = resize_image(photo, model.input.shape[1:3], "squash")
    heat = Image.fromarray(np.uint8(255 * grad_cam(model, squashed).heatmap)).resize(
        (photo.shape[1], photo.shape[0])
    )
    heat = np.asarray(heat, np.float32)[..., None] / 255
    warm = heat * [255, 80, 0] + (1 - heat) * [20, 30, 90]
    picture = (0.45 * photo + 0.55 * warm).astype(np.uint8)
    return picture, f"dmformer_t_imagenette: {name}, {probability:.0%}"


def panel(picture, caption):
    """A picture above its caption."""
    image = Image.fromarray(picture)
    image = image.resize((round(image.width * HEIGHT / image.height), HEIGHT))
    whole = Image.new("RGB", (image.width, HEIGHT + CAPTION), "white")
    whole.paste(image, (0, 0))
    font = ImageFont.load_default(18)
    ImageDraw.Draw(whole).text((2, HEIGHT + 6), caption, fill="black", font=font)
    return whole


def main():
    """Writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", default=Path(__file__).with_suffix(".jpg"))
    output = parser.parse_args().output
    photo = load_sample_image("china.jpg")
    panels = [
        panel(photo, "photograph: danielbuechele, CC BY 2.0"),
        panel(*segmented(photo)),
        panel(*explained(photo)),
    ]
    picture = Image.new("RGB", (sum(p.width for p in panels) + 20, panels[0].height), "white")
    left = 0
    for one in panels:
        picture.paste(one, (left, 0))
        left += one.width + 10
    picture.save(output, quality=85)


if __name__ == "__main__":
    main()
