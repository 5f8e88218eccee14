"""Imagenette, or some thousand photographs like it, from random weights on a CPU.

    dmformer train --preset dmformer_t --data imagenette_160.zip --recipe imagenette_alone \\
        --output runs/imagenette_alone

This project's: 30 epochs at 64x64, 8 at 96x96 and 8 at 128x128, batches of 64, a learning
rate of 2e-3, a tenth of it warm-up, gradients clipped at 1.

Result: 85.78 % top-1 on the 3,925 validation images, which chose the epoch, by `dmformer evaluate
runs/imagenette_alone --data imagenette_160.zip`.
Cost: 436,000 images; 1.7 hours on two processors.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=46,
    batch_size=64,
    image_size=128,
    progressive_resizing=((64, 30), (96, 8)),
    learning_rate=2e-3,
    clip_norm=1.0,
    validate_every=4,
)
