"""What travels inside a TFLite file: metadata as MediaPipe reads it, labels, a description.

TFLite metadata is a FlatBuffer of its own (schema `metadata_schema.fbs`, identifier
"M001") in a buffer of the model, and a zip archive behind the model with the files that it
names. The published writers load only beside libraries of hundreds of megabytes, or not at
all with Python of today; the few tables that an image model needs are written here.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dmformer_keras.export.exported_model import LABELS_FILE, has_labels, side_files
from dmformer_keras.export.tflite_file import packed, schema, unpacked
from dmformer_keras.export.tflite_ranges import coarsen_dead_outputs

_METADATA_NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.5.0"  # the first with custom metadata
# What MediaPipe's image segmenter reads (`image_segmenter_metadata_schema.fbs`): what it
# still has to do to the outputs before it shows them as confidences.
_SEGMENTER_NAME = "SEGMENTER_METADATA"
_SEGMENTER_IDENTIFIER = b"V001"
_SEGMENTER_VERSION = "1.0.0"
_SEGMENTER_ACTIVATIONS = {"linear": 2}  # 2 a softmax; 0, the default here, nothing
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType
_IMAGE_PROPERTIES = 2  # the union ContentProperties
_NORMALIZATION = 1  # the union ProcessUnitOptions
_COLOR_SPACES = {"RGB": 1, "grey": 2}


def write_complete(path, content, description, quantization):
    """Writes what a converter made, with all that travels with it."""
    path, model = Path(path), unpacked(content)
    if quantization == "int8":
        coarsen_dead_outputs(model)
    add_metadata(model, description)
    path.write_bytes(packed(model))
    add_side_files(path, description)


def add_metadata(model, description):
    """Adds metadata to a TFLite model."""
    tables = schema()
    buffer, entry = tables.BufferT(), tables.MetadataT()
    buffer.data = np.frombuffer(_encoded(description), np.uint8)
    entry.name, entry.buffer = _METADATA_NAME, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]


def add_side_files(path, description):
    """Adds `labels.txt` and `model.json` to a TFLite file."""
    with zipfile.ZipFile(path, "a") as archive:  # stored, so that programs can map it
        for name, text in side_files(description).items():
            archive.writestr(name, text)


@dataclass
class _Table:
    """A FlatBuffers table: {slot: value}, a value being a scalar or a table, str or list."""

    slots: dict = field(default_factory=dict)

    def write(self, builder):
        """Writes the table behind all that it refers to; returns its offset."""
        written = {slot: _write(builder, value) for slot, value in self.slots.items()}
        builder.StartObject(max(written, default=-1) + 1)
        for slot, value in written.items():
            if isinstance(self.slots[slot], _Byte):
                builder.PrependUint8Slot(slot, value, 0)
            elif isinstance(self.slots[slot], int):
                builder.PrependUint32Slot(slot, value, 0)
            else:
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        return builder.EndObject()


class _Byte(int):
    """A scalar of one byte: an enum, or the type of a union."""


def _write(builder, value):
    if isinstance(value, int):
        return int(value)
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, _Table):
        return value.write(builder)
    if isinstance(value, bytes):
        builder.StartVector(1, len(value), 16)  # the schema's force_align
        for part in reversed(value):
            builder.PrependByte(part)
        return builder.EndVector()
    if all(isinstance(part, float) for part in value):
        builder.StartVector(4, len(value), 4)
        for part in reversed(value):
            builder.PrependFloat32(part)
        return builder.EndVector()
    offsets = [_write(builder, part) for part in value]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _encoded(description):
    """Returns the metadata as bytes."""
    values = description["input"]
    normalization = _Table({0: [float(values["mean"])], 1: [float(values["std"])]})
    image = {0: _Byte(_COLOR_SPACES.get(values["color_order"], 0))}
    if None not in values["shape"]:
        height, width, _ = values["shape"]
        image[1] = _Table({0: width, 1: height})
    content = _Table({0: _Byte(_IMAGE_PROPERTIES), 1: _Table(image)})
    source = _Table(
        {
            0: "images",
            1: "Image to be processed, values (pixel - mean) / std of pixels in 0..255.",
            3: content,
            4: [_Table({0: _Byte(_NORMALIZATION), 1: normalization})],
        }
    )
    target = {0: "outputs", 1: f"Output with the activation {description['output']['activation']}."}
    if has_labels(description):
        labels = _Table({0: LABELS_FILE, 1: "Names of the classes.", 2: _Byte(_TENSOR_AXIS_LABELS)})
        target[6] = [labels]
    slots = {2: [source], 3: [_Table(target)]}
    if description["task"] == "segment":
        activation = _SEGMENTER_ACTIVATIONS.get(description["output"]["activation"], 0)
        options = _Table({0: _Byte(activation), 1: _SEGMENTER_VERSION})
        data = _finished(options, _SEGMENTER_IDENTIFIER)
        slots[9] = [_Table({0: _SEGMENTER_NAME, 1: data})]
    root = _Table(
        {
            0: description["name"],
            1: f"{description['made_from']} of dmformer_keras",
            3: [_Table(slots)],
            7: _PARSER_VERSION,
        }
    )
    return _finished(root, _IDENTIFIER)


def _finished(root, identifier):
    import flatbuffers

    builder = flatbuffers.Builder(1024)
    builder.Finish(root.write(builder), file_identifier=identifier)
    return bytes(builder.Output())
