"""CamVid's 367 street scenes, or as few of another place, from Imagenette's weights on a CPU.

    dmformer train --task segment --preset dmformer_t_imagenette --data camvid_360x480.zip \\
        --recipe camvid --output runs/dmformer_t_camvid

This project's: 50 epochs of crops of 256x256 and 10 of 320x320, batches of 8, Semantic FPN of
64 channels, a learning rate of 1e-3 with polynomial decay, Dice loss beside the cross-entropy, a
moving average of the weights.

Result: 53.9 % mIoU on the 233 test images (62.6 % on the validation images, which are neighbors
of training images); 55.5 % after 14 epochs more at 352x352, see the model card of
`dmformer_t_camvid`.
Cost: 22,000 crops; 1.2 hours of two processors that did other work, too.
"""

from dmformer_keras.training.recipe import SegmentationRecipe

RECIPE = SegmentationRecipe(
    epochs=60,
    batch_size=8,
    image_size=320,
    progressive_resizing=((256, 50),),
    head_channels=64,
    learning_rate=1e-3,
    warmup_epochs=2.0,
    weight_decay=0.05,
    clip_norm=1.0,
    ema=0.99,
    dice=0.5,
    validate_every=5,
)
