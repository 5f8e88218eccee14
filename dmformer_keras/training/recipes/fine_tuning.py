"""Your own images, 1,000 to 100,000 of them, from the weights of a preset, on a CPU.

For fewer take `few_images`.

    dmformer train --preset dmformer_t_mix --data photos/ --recipe fine_tuning \\
        --output runs/photos

This project's: 10 epochs at the preset's own size, batches of 64, a learning rate of 1e-3, a
tenth of it warm-up, gradients clipped at 1. Smaller images want a smaller `--image-size`.

Result: 78.5 % top-1 on CIFAR-10's 10,000 test images from a tenth of its training images, at 96x96,
begun with a linear probe of 72.3 %: the mean of three seeds, by `python benchmarks/transfer.py
--data cifar10_jpeg.zip --presets dmformer_t_mix --precision mixed_bfloat16`. At 64x64, without a
probe, from an earlier `dmformer_t_mix` (33.14 % on the mix), 73.4 %, and from random weights
51.9 %: means of three seeds, by

    dmformer train --preset dmformer_t_mix --data runs/transfer/cifar10_jpeg.zip/data \\
        --recipe fine_tuning --image-size 64 --validate-every 10 --seed 0 --output runs/tenth

The first seed has 73.0 %, and 73.3 % with `--optimizer muon --learning-rate 2.5e-3`: too little to
prefer it.

Cost: ten times your images; CIFAR-10's 5,000 at 64x64 took ten minutes of two processors that did
other work, too.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(epochs=10, batch_size=64, learning_rate=1e-3, clip_norm=1.0)
