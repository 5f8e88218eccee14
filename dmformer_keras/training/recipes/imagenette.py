"""Imagenette, or some thousand photographs like it, from the weights of the mix on a CPU.

    python examples/teacher_outputs.py crops imagenette_160.zip in_crops --number 12
    python examples/teacher_outputs.py outputs in_crops answers_crops
    dmformer train --preset dmformer_t_mix --data in_crops --recipe imagenette \\
        --teacher-cache answers_crops --output runs/dmformer_t_imagenette

This project's: twelve random crops of each photograph, each with a teacher's outputs of its own. A
linear probe, then 47,000 crops at 96x96, 37,000 at 128x128 and 28,000 at 160x160, for images of
192x192; batches of 128, Muon with a learning rate of 2.5e-3, gradients clipped at 1, bfloat16. The
teacher's logits count half, its features ten times. Without `--teacher-cache` the model learns from
the labels alone. It does not augment: with photographs themselves as data add `--augmentation
standard`, and set `--images-per-epoch` to their number.

Result: 93.40 % top-1 on the 3,925 validation images, see the model card of
`dmformer_t_imagenette`. `dmformer_n_imagenette` has 91.75 %, with `--preset dmformer_n_mix
--epochs 16 --image-size 160 --progressive-resizing 96:8 128:8 --learning-rate 4e-3
--stochastic-depth 0 --validate-every 16`.
Cost: 112,000 images; 0.8 hours on one processor, and 0.2 hours for the crops and the teacher.
"""

from dmformer_keras.training.recipe import Recipe

RECIPE = Recipe(
    epochs=12,
    images_per_epoch=9469,
    batch_size=128,
    image_size=192,
    progressive_resizing=((96, 5), (128, 4), (160, 3)),
    augmentation="none",
    optimizer="muon",
    learning_rate=2.5e-3,
    warmup_epochs=0.3,
    clip_norm=1.0,
    stochastic_depth=0.05,
    feature_weight=10.0,
    probe=True,
    precision="mixed_bfloat16",
    validate_every=12,
)
