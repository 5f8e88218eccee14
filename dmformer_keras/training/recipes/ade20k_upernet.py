"""ADE20K with UPerNet, 160,000 steps: the paper's recipe.

    dmformer train --task segment --preset runs/s --data ade20k/ \\
        --recipe ade20k_upernet --output runs/s_upernet

The data are ADEChallengeData2016's, as train/images, train/masks, val/images and
val/masks, with a classes.tsv in which label 0 is void.

From the paper: AdamW, batches of 16, from ImageNet weights, learning rate 6e-5, 1,500
steps of warm-up, linear decay. Crops of 512, the augmentation and the weight decay are
mmsegmentation's, for the paper does not state them. In epochs of ADE20K's 20,210 images
(1,263 steps).

Result: this project has run it shortened, on 3,502 scenes of MiniPlaces: see
`docs/segmentation.md`; on ADE20K it has not. Cost: 2,560,000 crops of 512x512.
"""

from dmformer_keras.training.recipe import SegmentationRecipe

STEPS_PER_EPOCH = 20_210 // 16
RECIPE = SegmentationRecipe(
    epochs=round(160_000 / STEPS_PER_EPOCH),
    image_size=512,
    learning_rate=6e-5,
    warmup_epochs=1_500 / STEPS_PER_EPOCH,
    weight_decay=0.01,
    head="upernet",
    augmentation="ade20k",
    power=1.0,
)
