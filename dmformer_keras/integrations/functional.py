"""What a class needs that inherits from DMFormerBackbone and from a library's backbone."""

import keras


def settle_bases(library_class):
    """Makes Keras put `Functional` into a library's backbone class now.

    Keras does so when the class is first instantiated. `dmformer_keras.DMFormerBackbone`
    may have been through that already; joined with a class that has not, `Functional`
    would come before the library's class, whose constructor would then run inside
    `Functional`'s, when the model has no layers yet.
    """
    image = keras.Input((1,), name="image")
    library_class(inputs=image, outputs=image, name="settled")
