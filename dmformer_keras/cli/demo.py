"""`dmformer demo`"""

import os
import threading

import numpy as np

from dmformer_keras.data import load_image
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.inference import classify, segment
from dmformer_keras.inference.mask_pictures import class_table, draw_overlay
from dmformer_keras.inference.model_outputs import class_names_of, image_size_of, is_segmenter
from dmformer_keras.loading import load

_LIKELIEST = "the likeliest"
_HEAT = 0.5  # opacity of Grad-CAM
_SHOWN = 448  # pixels that its pictures are enlarged to
_LARGEST_UPLOAD = "25mb"


def run(args):
    """Serves the page until it is interrupted."""
    gradio = _library()
    page = make_page(gradio, load(args.model, args.image_size), args.model)
    try:
        serve(page, args.port, inbrowser=not args.no_browser)
    except OSError as error:
        raise DMFormerError(
            f"The page cannot be opened ({shortened(error)}); another program may have the port: "
            "choose another --port, or leave it out."
        ) from error
    print(f"At {page.local_url}, until Ctrl-C", flush=True)
    try:
        threading.Event().wait()
    finally:
        # Not after what browsers that have the page open may still ask for.
        page.server.force_exit = True
        page.close(verbose=False)


def serve(page, port=None, inbrowser=False):
    """Opens the page to this machine, and to nobody else.

    Args:
        page: `gradio.Blocks`.
        port: int or None, for a free one.
        inbrowser: bool, whether to open the browser.

    Raises:
        OSError: the port is not free.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    # A page of somebody else's could lead its own name to this machine, and ask in the browser's.
    own_names = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    page.launch(
        server_name="127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=inbrowser,
        footer_links=[],
        quiet=True,  # for it speaks of links for others
        prevent_thread_lock=True,
        max_file_size=_LARGEST_UPLOAD,
        app_kwargs={"middleware": [own_names]},
    )


def make_page(gradio, model, title):
    """Returns the page.

    Args:
        gradio: the module.
        model: what `load_trained` returns.
        title: str, at its head.

    Returns:
        `gradio.Blocks`.
    """

    def shown(path, name):
        if path is None:
            return None, None
        try:
            return describe(model, path, None if name == _LIKELIEST else name)
        except DMFormerError as error:
            raise gradio.Error(str(error)) from None

    with gradio.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.Markdown(f"# {title}\nDrop a photograph.")
        with gradio.Row():
            image = gradio.Image(
                type="filepath", sources=["upload", "clipboard"], label="Image",
                image_mode=None,  # as it is: `load_image` brings it to the model's channels
            )  # fmt: skip
            # It would open the file by rules of its own, and has no sentence for what is no image.
            opened = image.preprocess
            image.preprocess = lambda sent: (sent and sent.path) or opened(sent)
            picture = gradio.Image(
                label="Where it is seen", format="png", buttons=["download", "fullscreen"],
                interactive=False,
            )  # fmt: skip
            classes = gradio.Label(num_top_classes=5, label="Classes")
        looked_for = gradio.Dropdown(
            [_LIKELIEST, *class_names_of(model)],
            value=_LIKELIEST,
            label="Class to look for",
            visible=not is_segmenter(model),
        )
        for changed in (image, looked_for):
            changed.change(shown, [image, looked_for], [classes, picture])
    return page


def describe(model, path, name=None):
    """Says what is in an image, and draws where.

    Args:
        model: `DMFormerClassifier`, `SemanticFPN` or `UPerNet`.
        path: str or path of an image file.
        name: str, the class that Grad-CAM looks for; None for the likeliest.

    Returns:
        ({class name: probability, or share of the pixels}, `PIL.Image.Image`).

    Raises:
        DMFormerError: the image cannot be read.
    """
    names, channels = class_names_of(model), model.input.shape[-1]
    if is_segmenter(model):
        image = load_image(path, channels=channels)
        mask = segment(model, image)
        shares = {name: share for name, _, share in class_table(mask, names)}
        return shares, draw_overlay(image, mask, names, model.class_colors)
    shares = dict(classify(model, path, top=len(names)))
    image = load_image(path, image_size_of(model), channels=channels)
    return shares, _heated(model, image, None if name is None else names.index(name))


def _heated(model, image, class_index):
    """The image under its heat map."""
    from matplotlib import colormaps
    from PIL import Image

    from dmformer_keras.explain import grad_cam

    heat = colormaps["inferno"](grad_cam(model, image, class_index).heatmap)[..., :3]
    seen = np.broadcast_to(image[..., :3], heat.shape)
    picture = Image.fromarray(np.uint8((1 - _HEAT) * seen + _HEAT * 255 * heat))
    factor = max(1, _SHOWN / max(picture.size))
    return picture.resize([round(factor * side) for side in picture.size])


def _library():
    # Read when it is imported: it asks for newer versions, and counts what is done, otherwise.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
        import matplotlib  # noqa: F401, draws the heat
    except ImportError as error:
        raise DMFormerError(
            "The page needs gradio, which is not installed; run "
            '`pip install "dmformer-keras[demo]"`.'
        ) from error
    return gradio
