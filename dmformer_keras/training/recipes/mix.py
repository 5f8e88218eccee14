"""A quarter of a million small photographs with a teacher's outputs, on a CPU.

    dmformer train --preset runs/dmformer_n_imagenette --data mix --recipe mix --seed 1 \\
        --cache cache --teacher-cache answers --output runs/dmformer_n_mix

This project's: 640,000 images at 64x64, 128,000 at 96x96 and 64,000 at 128x128, batches of 128,
Muon with a learning rate of 4e-3 that falls to zero, gradients clipped at 1, averaged weights,
bfloat16. The teacher's logits count half for the classes that it knows, its features ten times.

Result: 42.42 % top-1 on the 8,280 validation images of the mix, see the model card of
`dmformer_n_mix`. It began from a DMFormer-N with 83.69 % on Imagenette; from random weights it was
not run.
Cost: 832,000 images, three passes; 1.4 hours on one processor.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=52,
    images_per_epoch=16_000,
    batch_size=128,
    image_size=128,
    progressive_resizing=((64, 40), (96, 8)),
    optimizer="muon",
    learning_rate=4e-3,
    warmup_epochs=0.5,
    clip_norm=1.0,
    ema=0.998,
    stochastic_depth=0.0,
    feature_weight=10.0,
    precision="mixed_bfloat16",
    validate_every=52,
)
