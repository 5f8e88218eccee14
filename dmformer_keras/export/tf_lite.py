"""All that is taken of TensorFlow's TFLite converter, by the names it has there.

One of them is private to TensorFlow, and its maintainers send new users to LiteRT: where a
version has moved one, this is the only file to change.
"""

import importlib

from dmformer_keras.errors import DMFormerError

# Of each name here, the module and the attribute in it.
NAMES = {
    "Converter": ("tensorflow.lite", "TFLiteConverter"),
    "OperatorSets": ("tensorflow.lite", "OpsSet"),
    "Optimize": ("tensorflow.lite", "Optimize"),
    "ConverterError": ("tensorflow.lite.python.convert_phase", "ConverterError"),
}


def __getattr__(name):
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = NAMES[name]
    try:
        return getattr(_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise DMFormerError(
            f"TensorFlow {_version()} has no {module}.{attribute}, which the export to TFLite "
            "needs; install a version that this package was tried with, 2.19 to 2.21, or convert "
            'with converter="litert".'
        ) from error


def _module(name):
    if name == "tensorflow.lite":  # loaded by TensorFlow, when it is touched
        import tensorflow as tf

        return tf.lite
    return importlib.import_module(name)


def _version():
    import tensorflow as tf

    return tf.__version__
