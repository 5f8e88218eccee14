"""ImageNet-1K, 300 epochs: the paper's recipe, as far as it is known.

    dmformer train --preset dmformer_s --data tfds:imagenet2012 --recipe imagenet --output runs/s

From the paper: 300 epochs, batches of 1,024, learning rate 1e-3, cosine decay. This
project's, by the habit of DeiT, Swin and VAN: AdamW with weight decay 0.05, 5 epochs of
warm-up, label smoothing 0.1, RandAugment, mixup 0.8, CutMix 1.0, erasing 0.25, gradients
clipped at 5; stochastic depth is the preset's (0.1 for S, 0.15 for B, 0.2 for L).

Result: the paper reports 82.8 % top-1 for S and 83.6 % for L. This project has not run it.
Cost: 384 million images, forward and backward; the paper used 8 GPUs. Of smaller memory:
`--batch-size 128 --accumulate 8` makes the same updates but for BatchNorm, and fewer
images per update scale the learning rate, for `base_batch_size` is set.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=300,
    batch_size=1024,
    image_size=224,
    learning_rate=1e-3,
    base_batch_size=1024,
    warmup_epochs=5.0,
    weight_decay=0.05,
    augmentation="imagenet",
    clip_norm=5.0,
    label_smoothing=0.1,
    mixup=0.8,
    cutmix=1.0,
)
