"""Your own images, under some thousand of them, from the weights of a preset, on a CPU.

    dmformer train --preset dmformer_t_mix --data photos/ --recipe few_images --output runs/photos

This project's: first the best linear head for the preset's features (a linear probe, which
prints its accuracy), then 10 epochs of all weights, the layers far from the head slower: batches
of 32, a learning rate of 2e-4 that falls by 0.8 for each layer, gradients clipped at 1. Needs
scikit-learn. After Kumar et al. 2022.

Result: the probe alone, on 300 photographs of five flowers, from `dmformer_t_mix`: 61.0 % top-1, by
`benchmarks/probe.py`; what the epochs add is not measured. Cost: eleven times your images.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=10, batch_size=32, learning_rate=2e-4, layer_decay=0.8, clip_norm=1.0, probe=True
)
