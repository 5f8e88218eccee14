"""CamVid's 367 street scenes, or as few of another place, from the weights of the mix on a CPU.

    dmformer train --task segment --preset dmformer_t_mix --data camvid_360x480.zip \\
        --recipe camvid --output runs/dmformer_t_camvid

This project's: 44 epochs of crops of 256x256 and 12 of 352x352, batches of 8, Semantic FPN of
64 channels, Muon with a learning rate of 2.5e-3 and polynomial decay, more weight for rare
classes, Dice loss beside the cross-entropy, a moving average of the weights.

Result: 60.7 % mIoU on the 233 test images (69.2 % on the validation images, which are neighbors
of training images). `dmformer_t_camvid` went on from that by 22 more epochs, see its model card:
61.77 %. Both were trained with `--precision mixed_bfloat16`.
Cost: 21,000 crops; 0.9 hours on one processor.
"""

from dmformer_keras.training.recipe import SegmentationRecipe

RECIPE = SegmentationRecipe(
    epochs=56,
    batch_size=8,
    image_size=352,
    progressive_resizing=((256, 44),),
    head_channels=64,
    optimizer="muon",
    learning_rate=2.5e-3,
    warmup_epochs=2.0,
    weight_decay=0.05,
    clip_norm=1.0,
    ema=0.99,
    class_weighting="log_frequency",
    dice=0.5,
    validate_every=14,
)
