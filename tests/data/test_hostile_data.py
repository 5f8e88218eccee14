"""Class tables, archives and masks made at random: each is read, or refused in one sentence."""

import io
import zipfile

import numpy as np
import pytest
from helpers import stated
from image_files import encode
from PIL import Image

from dmformer_keras.data import open_source
from dmformer_keras.data.masks import MaskClasses, read_mask

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as some  # noqa: E402

pytestmark = pytest.mark.backend_independent

LIKELY = (
    "cat", "dog", "train", "val", "Test", "images", "masks", "annotations", ".", "..", "", "README",
    "classes.tsv", "1.png", "1.jpg", "x.heic", "__MACOSX", "\\", "C:", "a" * 300, "\x07",
    "caf\u00e9",
)  # fmt: skip
CONTENTS = (
    b"", b"x", b"0\tcat\n1\tdog\n", b"\0\0\0\x18ftypheic\0\0\0\0",
    encode(np.full((4, 4, 3), 7, np.uint8)), encode(np.eye(4, dtype=np.uint8)),
    encode(np.eye(4, dtype=np.uint8)[..., None].repeat(3, -1), "JPEG"),
)  # fmt: skip
CELLS = some.one_of(
    some.sampled_from(["0", "1", "-1", "255", "65536", "9" * 6000, "1.5", "cat", "dog", "void"]),
    some.text(max_size=8),
)
TABLE = some.lists(some.lists(CELLS, max_size=6).map("\t".join), max_size=8).map("\n".join)


def archive(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members:
            if name:
                zipped.writestr(name, content)
    return file.getvalue()


def open_and_read(path, split, task, on_corrupt):
    source = open_source(path, split, task=task, on_corrupt=on_corrupt)
    for index in range(len(source)):
        source.read(index)
    source.describe().encode("utf-8")


CHOICES = (
    some.sampled_from(["train", "val", "all"]),
    some.sampled_from(["classify", "segment"]),
    some.sampled_from(["error", "skip"]),
)


@hypothesis.given(
    some.lists(
        some.tuples(
            some.lists(some.sampled_from(LIKELY), min_size=1, max_size=4).map("/".join),
            some.sampled_from(CONTENTS),
        ),
        max_size=10,
    ),
    *CHOICES,
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives(tmp_path_factory, members, split, task, on_corrupt):
    path = tmp_path_factory.getbasetemp() / "hostile.zip"
    path.write_bytes(archive(members))
    stated(lambda: open_and_read(path, split, task, on_corrupt))


WHOLE = archive(
    [(f"{name}/{i}.png", CONTENTS[4]) for name in ("cat", "dog") for i in range(3)]
    + [("classes.tsv", CONTENTS[2])]
)


@hypothesis.given(
    some.lists(some.tuples(some.integers(0, len(WHOLE) - 1), some.integers(0, 255)), max_size=5),
    some.integers(0, len(WHOLE)),
    *CHOICES,
)
def test_damaged_archives(tmp_path_factory, changes, end, split, task, on_corrupt):
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(content if end % 2 else content[:end])
    stated(lambda: open_and_read(path, split, task, on_corrupt))


@hypothesis.given(TABLE, some.binary(max_size=6), *CHOICES)
def test_class_tables(tmp_path_factory, table, junk, split, task, on_corrupt):
    path = tmp_path_factory.getbasetemp() / "table.zip"
    if task == "segment":
        files = [(f"images/{i}.png", CONTENTS[4]) for i in range(3)]
        files += [(f"masks/{i}.png", CONTENTS[5]) for i in range(3)]
    else:
        files = [(f"{name}/{i}.png", CONTENTS[4]) for name in ("cat", "dog") for i in range(3)]
    content = table.encode("utf-8", "surrogatepass") + junk
    path.write_bytes(archive([*files, ("classes.tsv", content)]))
    stated(lambda: open_and_read(path, split, task, on_corrupt))


@hypothesis.given(
    some.sampled_from(["1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I", "F", "CMYK"]),
    some.sampled_from(["PNG", "GIF", "BMP", "TIFF", "JPEG", "WEBP"]),
    some.binary(min_size=4, max_size=96),
    some.binary(max_size=768),
    some.lists(some.tuples(some.integers(0, 2000), some.integers(0, 255)), max_size=3),
    some.booleans(),
)
def test_masks(mode, fmt, values, palette, changes, colored):
    samples = np.resize(np.frombuffer(values, np.uint8), (4, 5, 3))
    image = Image.fromarray(samples).convert("L" if mode[0] in "I1FP" else mode)
    if mode[0] in "I1F":
        image = image.convert(mode.split(";")[0])
    elif mode[0] == "P":
        image.putpalette(palette[: len(palette) // 3 * 3] or bytes(3))
        image = image.convert("PA") if mode == "PA" else image
    file = io.BytesIO()
    try:
        image.save(file, fmt)
    except (OSError, ValueError, KeyError):
        hypothesis.reject()  # a format that has no such images
    content = bytearray(file.getvalue())
    for place, value in changes:
        content[place % len(content)] = value
    color = ((0, 0, 0), (255, 255, 255), (10, 20, 30)) if colored else (None,) * 3
    classes = MaskClasses.of_table([(i, f"class {i}", color[i]) for i in range(3)])
    stated(lambda: classes.indexes(read_mask(bytes(content), "'mask'"), "'mask'"))
