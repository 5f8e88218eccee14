"""Segmentations as pictures: the public names of `dmformer_keras.inference.mask_pictures`."""

from dmformer_keras.inference.mask_pictures import class_table, draw_overlay, save_mask

__all__ = ["class_table", "draw_overlay", "save_mask"]
