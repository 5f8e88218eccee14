"""TFLite files as objects, and packed anew: smaller than converters leave them, and aligned.

The file is a FlatBuffer, in which one vector may serve in many places. The converter
writes every zero point of every channel, eight bytes each and all of them 0, for kernels
and biases alike: a tenth of a small int8 file.
"""

import numpy as np

from dmformer_keras.errors import DMFormerError

# What the schema asks of a buffer's data (`force_align`), so that a program can map the file.
_ALIGNMENT = 16
_IDENTIFIER = b"TFL3"


def schema():
    """Returns the module with the classes of a file's tables, which LiteRT's package brings."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise DMFormerError(
            "TFLite files are completed by LiteRT's package: pip install ai-edge-litert."
        ) from error
    return schema_py_generated


def unpacked(content):
    """Returns the content of a `.tflite` file as a `ModelT`, all its data inside."""
    tables = schema()
    model = tables.ModelT.InitFromObj(tables.Model.GetRootAs(content, 0))
    for buffer in model.buffers:
        # Some tools write the data of buffers behind the model, and where it lies.
        if buffer.offset > 1:
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model):
    """Returns a model as the content of a `.tflite` file, equal vectors stored once."""
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        """Writes a vector of numbers once, however often it is asked for."""

        def __init__(self):
            super().__init__(1024)
            self.written = {}

        def CreateNumpyVector(self, x):  # noqa: N802  overrides
            key = (x.dtype.str, x.tobytes())
            if key not in self.written:
                self.written[key] = self._aligned(x)
            return self.written[key]

        def _aligned(self, x):
            if x.dtype != np.uint8:
                return super().CreateNumpyVector(x)
            # Bytes of a buffer, of which the base class knows no alignment.
            self.StartVector(1, x.size, _ALIGNMENT)
            self.head -= x.size
            self.Bytes[self.head : self.head + x.size] = x.tobytes()
            self.vectorNumElems = x.size
            return self.EndVector()

    builder = SharingBuilder()
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())
