"""Converts the object polygons of MiniPlaces to images and masks for the scene parsing recipes.

    python examples/scene_parsing.py data --names object_categories.txt --output scenes
    dmformer train --task segment --data scenes --preset dmformer_t_mix \\
        --recipe ade20k_semantic_fpn --epochs 20 --batch-size 16 --image-size 128 \\
        --output runs/scenes

`data` is the folder of MiniPlaces (http://miniplaces.csail.mit.edu) with `images/` and `objects/`:
3,502 training and 371 validation images of 128x128 pixels have polygons of 175 kinds of objects;
`object_categories.txt` of its development kit names them. The photographs are Places2's: for
non-commercial research and education only.
"""

import argparse
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, ImageDraw

VOID = 255


def polygons(xml):
    """The objects of one image: list of (class, list of (x, y)), the largest first.

    The file has several elements and no root. With a root around them, it cannot declare entities.
    """
    root = ElementTree.fromstring(f"<image>{xml}</image>")
    found = []
    for one in root.iter("objects"):
        points = [
            (int(point.findtext("x")) - 1, int(point.findtext("y")) - 1) for point in one.iter("pt")
        ]
        if len(points) > 2:
            found.append((int(one.findtext("class")), points))
    # Largest first, so that a wall does not cover a picture on it.
    return sorted(found, key=lambda item: -area(item[1]))


def area(points):
    """The area of a polygon (the shoelace formula)."""
    pairs = zip(points, [*points[1:], points[0]], strict=True)
    return abs(sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairs)) / 2


def mask_of(xml, size):
    """The mask of one image, a `PIL.Image.Image` of class indexes."""
    mask = Image.new("L", size, VOID)
    draw = ImageDraw.Draw(mask)
    for label, points in polygons(xml):
        draw.polygon(points, fill=label)
    return mask


def write_split(data, split, output):
    """Writes the images and masks of a split; returns their number."""
    files = sorted((data / "objects" / split).rglob("*.xml"))
    for folder in ("images", "masks"):
        (output / split / folder).mkdir(parents=True)
    for file in files:
        place = file.relative_to(data / "objects").with_suffix(".jpg")
        name = "_".join(place.with_suffix("").parts[1:])
        with Image.open(data / "images" / place) as image:
            mask = mask_of(file.read_text(encoding="utf-8"), image.size)
        shutil.copyfile(data / "images" / place, output / split / "images" / f"{name}.jpg")
        mask.save(output / split / "masks" / f"{name}.png")
    return len(files)


def class_table(names):
    """The text of `classes.tsv`, of a file with a name and a number per line."""
    try:
        lines = [line.split() for line in names.read_text(encoding="utf-8").splitlines()]
        rows = [
            f"{int(number)}\t{name.replace('_', ' ')}\n" for name, number in filter(None, lines)
        ]
    except (OSError, ValueError) as error:
        sys.exit(f"{names} is no list of a name and a number per line: {error}")
    return "".join([*rows, f"{VOID}\tvoid\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the folder with images/ and objects/")
    parser.add_argument("--names", type=Path, required=True, help="object_categories.txt")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    beside = args.output.with_name(f"{args.output.name}.part")
    for path in (args.output, beside):
        if path.exists():
            sys.exit(f"{path} exists already; delete it, or give a new folder.")
    if not (args.data / "objects" / "train").is_dir():
        sys.exit(f"{args.data} has no objects/train; give the folder of MiniPlaces.")
    table = class_table(args.names)
    for split in ("train", "val"):
        print(f"{split}: {write_split(args.data, split, beside)} images")
    (beside / "classes.tsv").write_text(table, encoding="utf-8")
    beside.rename(args.output)


if __name__ == "__main__":
    main()
