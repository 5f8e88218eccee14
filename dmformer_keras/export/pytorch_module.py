"""Keras models as modules of PyTorch, which its exporters take."""


def as_module(model, channels_first=False):
    """Returns a `torch.nn.Module` that calls a channels_last model at inference, in any mode.

    With `channels_first`, images and output maps are `(batch, channels, height, width)`.
    """
    import torch

    class AsModule(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            if not channels_first:
                return self.model(images, training=False)
            outputs = self.model(images.permute(0, 2, 3, 1), training=False)
            return outputs.permute(0, 3, 1, 2) if outputs.ndim == 4 else outputs

    return AsModule().eval()
