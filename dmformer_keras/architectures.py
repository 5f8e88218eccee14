"""The variants of DMFormer as data: what differs between them, and their counts."""

from typing import Any

# The least height and width, in pixels: the last stage's stride.
MINIMUM_SIZE = 32
# `parameters` and `multiply_accumulates` are counted at 224x224 with 1,000 classes;
# a test holds them to the models. S and L are the paper's, the rest this project's.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "dmformer_n": {
        "metadata": {
            "description": "DMFormer-N (nano): for phones and tests.",
            "parameters": 2_208_100,
            "multiply_accumulates": 425_096_640,
        },
        "config": {"channels": (24, 48, 96, 192), "depths": (2, 2, 4, 2)},
    },
    "dmformer_t": {
        "metadata": {
            "description": "DMFormer-T (tiny): for phones and small data sets.",
            "parameters": 4_923_032,
            "multiply_accumulates": 1_024_579_456,
        },
        "config": {
            "channels": (32, 64, 160, 256),
            "depths": (3, 3, 5, 2),
            "stochastic_depth": 0.05,
        },
    },
    "dmformer_s": {
        "metadata": {
            "description": "DMFormer-S: the size of Swin-T, ConvNeXt-T and ResNet-50.",
            "parameters": 24_816_248,
            "multiply_accumulates": 4_576_850_944,
        },
        "config": {
            "channels": (64, 128, 320, 512),
            "depths": (3, 4, 6, 3),
            "stochastic_depth": 0.1,
        },
    },
    "dmformer_b": {
        "metadata": {
            "description": "DMFormer-B: between S and L.",
            "parameters": 34_553_048,
            "multiply_accumulates": 6_414_728_704,
        },
        "config": {
            "channels": (64, 128, 320, 512),
            "depths": (3, 4, 12, 3),
            "stochastic_depth": 0.15,
        },
    },
    "dmformer_l": {
        "metadata": {
            "description": "DMFormer-L: the size of Swin-S and ConvNeXt-S.",
            "parameters": 44_289_848,
            "multiply_accumulates": 8_252_606_464,
        },
        "config": {
            "channels": (64, 128, 320, 512),
            "depths": (3, 4, 18, 3),
            "stochastic_depth": 0.2,
        },
    },
}
