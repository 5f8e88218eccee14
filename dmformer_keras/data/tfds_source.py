"""Datasets prepared by tensorflow_datasets."""

import os

import numpy as np

from dmformer_keras.data.image_source import EncodedSource, ImageSource
from dmformer_keras.data.images import check_file_channels
from dmformer_keras.data.masks import MaskClasses
from dmformer_keras.data.segmentation_source import (
    EncodedSegmentationSource,
    Pair,
    carved_pairs,
    find_labels,
)
from dmformer_keras.data.splits import carve, split_of_name, stored_split
from dmformer_keras.errors import DMFormerError

PREFIX = "tfds:"
# Encoded images up to this many bytes are held in memory; above, they are streamed.
MEMORY_LIMIT = 2 * 2**30

# The keys of the photo and the mask in data sets, the likeliest first.
_PHOTO_FEATURES = ("image", "image_left")
_MASK_FEATURES = (
    "segmentation_mask",
    "segmentation_label",
    "label_image",
    "annotation",
    "mask",
    "label",
)


class StreamSource(ImageSource):
    """A dataset too large for memory: `to_tf_dataset` reads it in order, again and again.

    Single images cannot be read, and nothing is verified beforehand. `encoded_dataset()` returns a
    finite `tf.data.Dataset` of (encoded image, label) with `size` images.
    """

    def __init__(self, title, split, class_names, channels, *, encoded_dataset, size):
        super().__init__(title, split, class_names, None, channels)
        self.encoded_dataset = encoded_dataset
        self._size = size

    def __len__(self):
        return self._size

    def read(self, index):
        """Raises: a stream has no single images."""
        raise DMFormerError(
            f"{self.title} is streamed, so image {index} cannot be read alone; use to_tf_dataset."
        )

    def _name(self, index):
        return f"{self.title}/{self.split}[{index}]"


def open_tfds(spec, split, *, channels, on_corrupt, verify, validation_fraction, seed, download):
    """Open a dataset of tensorflow_datasets; returns EncodedSource, or StreamSource where the split
    is over `MEMORY_LIMIT`.
    """
    check_file_channels(channels)
    builder = _prepared_builder(spec.removeprefix(PREFIX), download)
    image_key, label_key = _checked_features(builder, spec)
    names = _split_names(builder)
    stored, carved = stored_split(spec, split, names)
    class_names = builder.info.features[label_key].names
    info = builder.info.splits[names[stored]]

    def encoded_dataset(part):
        import tensorflow_datasets as tfds

        dataset = builder.as_dataset(
            split=part,
            decoders={image_key: tfds.decode.SkipDecoding()},
            read_config=tfds.ReadConfig(try_autocache=False),
        )
        return dataset.map(lambda features: (features[image_key], features[label_key]))

    if info.num_bytes > MEMORY_LIMIT:
        if on_corrupt == "skip":
            raise DMFormerError(
                f"{spec} is too large for memory and streamed, where corrupt images cannot be "
                "skipped; pass on_corrupt='error'."
            )
        part, size = _stream_part(names[stored], split, carved, info, validation_fraction)
        return StreamSource(
            spec,
            split,
            class_names,
            channels,
            encoded_dataset=lambda: encoded_dataset(part),
            size=size,
        )

    pairs = list(encoded_dataset(names[stored]).as_numpy_iterator())
    labels = np.array([label for _, label in pairs], np.int32)
    indexes = np.arange(len(pairs))
    if carved:
        indexes = carve(spec, split, labels, validation_fraction, seed)
    source = EncodedSource(
        spec,
        split,
        class_names,
        labels[indexes],
        channels,
        keys=[pairs[index][0] for index in indexes],
        names=[f"{spec}/{names[stored]}[{index}]" for index in indexes],
        fetch=bytes,
    )
    return source.verified(on_corrupt, fully=verify)


def open_segmentation_tfds(
    spec,
    split,
    *,
    channels,
    on_corrupt,
    verify,
    validation_fraction,
    seed,
    download,
    ignored_labels,
):
    """Open a dataset of tensorflow_datasets that has a mask for every image."""
    check_file_channels(channels)
    builder = _prepared_builder(spec.removeprefix(PREFIX), download)
    image_key, mask_key = _photo_and_mask(builder, spec)
    names = _split_names(builder)
    stored, carved = stored_split(spec, split, names)

    def pairs_of(stored):
        size = builder.info.splits[names[stored]].num_bytes
        if size > MEMORY_LIMIT:
            raise DMFormerError(
                f"The split {names[stored]!r} of {spec} has {size / 2**30:.1f} GiB, and over "
                f"{MEMORY_LIMIT / 2**30:g} GiB images with masks are not streamed; write them to "
                "a folder with images/ and masks/, or a zip of it."
            )
        encoded = _encoded_pairs(builder, names[stored], image_key, mask_key)
        titles = (f"{spec}/{names[stored]}[{index}]" for index in range(len(encoded)))
        return [
            Pair(image, mask, title, f"{mask_key} of {title}")
            for (image, mask), title in zip(encoded, titles, strict=True)
        ]

    pairs = pairs_of(stored)
    class_names = getattr(builder.info.features[mask_key], "names", None)
    if class_names:
        rows = [(label, name, None) for label, name in enumerate(class_names)]
        classes = MaskClasses.of_table(rows, ignored_labels, f"The list of labels of {spec}")
    else:
        reference = "train" if "train" in names else stored
        training = pairs if reference == stored else pairs_of(reference)
        labels = find_labels(training, bytes, on_corrupt)
        classes = MaskClasses.of_labels(labels, ignored_labels, spec)
    if carved:
        pairs = carved_pairs(spec, split, pairs, validation_fraction, seed)
    source = EncodedSegmentationSource(spec, split, classes, channels, pairs=pairs, fetch=bytes)
    return source.verified(on_corrupt, fully=verify)


def _prepared_builder(name, download):
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DMFormerError(
            f"The source 'tfds:{name}' needs tensorflow and tensorflow-datasets; "
            "run `pip install tensorflow tensorflow-datasets`."
        ) from error
    data_dir = os.environ.get("TFDS_DATA_DIR")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # unknown names and versions, and any error of a builder's code
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DMFormerError(
            f"tensorflow_datasets cannot open {name!r} ({reason}); check the name and version, "
            "and that TFDS_DATA_DIR is the folder where it was prepared."
        ) from error
    if not builder.is_prepared():
        if not download:
            raise DMFormerError(
                f"The dataset {name!r} is not prepared in {builder.data_dir!r}; run "
                f"`tfds build {name}`, set TFDS_DATA_DIR, or pass download=True."
            )
        builder.download_and_prepare()
    return builder


def _checked_features(builder, spec):
    """The keys of the image and of the label."""
    import tensorflow_datasets as tfds

    features, keys = builder.info.features, builder.info.supervised_keys
    right = (
        keys is not None
        and len(keys) == 2
        and all(isinstance(key, str) for key in keys)
        and isinstance(features[keys[0]], tfds.features.Image)
        and isinstance(features[keys[1]], tfds.features.ClassLabel)
    )
    if not right:
        raise DMFormerError(
            f"{spec} is no dataset for classification: an image and a class label were expected "
            f"as its supervised keys, not {keys!r}; choose another dataset, or open one with masks "
            "with task='segment'."
        )
    return keys


def _photo_and_mask(builder, spec):
    """The keys of the photo and of the mask."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    images = {
        key: feature
        for key, feature in features.items()
        if isinstance(feature, tfds.features.Image)
    }
    named = [key for key in _MASK_FEATURES if key in images]
    single = [key for key, feature in images.items() if feature.shape[-1] == 1]
    masks = named[:1] or single
    photos = [key for key in images if key not in masks and key not in single]
    photos = [key for key in _PHOTO_FEATURES if key in photos][:1] or photos
    if len(masks) != 1 or len(photos) != 1:
        raise DMFormerError(
            f"{spec} is no dataset for segmentation: a photo and a mask (one of "
            f"{', '.join(_MASK_FEATURES)}, or the only image of one channel) were expected among "
            f"its features {', '.join(features)}; choose another dataset."
        )
    return photos[0], masks[0]


def _encoded_pairs(builder, name, image_key, mask_key):
    """[(bytes of the image, bytes of the mask)] of a split."""
    import tensorflow_datasets as tfds

    skip = tfds.decode.SkipDecoding()
    dataset = builder.as_dataset(
        split=name,
        decoders=tfds.decode.PartialDecoding(
            {image_key: True, mask_key: True}, {image_key: skip, mask_key: skip}
        ),
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    return [(example[image_key], example[mask_key]) for example in dataset.as_numpy_iterator()]


def _split_names(builder):
    """{split: what the dataset calls it}; of two names for a split the plainer one."""
    names = sorted(builder.info.splits, key=len, reverse=True)
    return {split_of_name(name): name for name in names if split_of_name(name)}


def _stream_part(name, split, carved, info, validation_fraction):
    """What to ask tensorflow_datasets for, and how many images that is.

    Labels are not known before a stream is read: the last images are for validation.
    """
    count = info.num_examples
    if not carved:
        return name, count
    cut = count - round(count * validation_fraction)
    return (f"{name}[:{cut}]", cut) if split == "train" else (f"{name}[{cut}:]", count - cut)
