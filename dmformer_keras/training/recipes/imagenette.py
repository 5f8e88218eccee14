"""Imagenette, or some thousand photographs like it, from the weights of the mix on a CPU.

    dmformer train --preset dmformer_t_mix --data imagenette_160.zip --recipe imagenette \\
        --cache memory --teacher-cache answers --output runs/dmformer_t_imagenette

This project's: a linear probe, then 10 epochs at 96x96, 3 at 128x128 and 1 at 160x160, batches of
128, Muon with a learning rate of 2.5e-3, gradients clipped at 1, bfloat16. The teacher's logits
count half, its features ten times; without `--teacher-cache` the model learns from the labels
alone.

Result: 91.34 % top-1 on the 3,925 validation images, see the model card of
`dmformer_t_imagenette`.
Cost: 133,000 images; 0.7 hours on one processor.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=14,
    batch_size=128,
    image_size=160,
    progressive_resizing=((96, 10), (128, 3)),
    optimizer="muon",
    learning_rate=2.5e-3,
    warmup_epochs=0.3,
    clip_norm=1.0,
    stochastic_depth=0.05,
    feature_weight=10.0,
    probe=True,
    precision="mixed_bfloat16",
    validate_every=14,
)
