"""`dmformer demo`"""

import gc
import importlib.util
import logging
import os
import sys
import threading
from pathlib import Path

import numpy as np

from dmformer_keras.cli.arguments.demo import SHIPPED
from dmformer_keras.data import load_image
from dmformer_keras.errors import DMFormerError, shortened
from dmformer_keras.inference import classify, segment
from dmformer_keras.inference.mask_pictures import class_table, draw_overlay
from dmformer_keras.inference.model_outputs import class_names_of, image_size_of, is_segmenter
from dmformer_keras.loading import load

TITLE = "What is in the photograph, and where?"
_LIKELIEST = "the likeliest"
_HEAT = 0.5  # opacity of Grad-CAM
_SHOWN = 448  # pixels that its pictures are enlarged to
_LARGEST_UPLOAD = "25mb"
_MOST_NAMED = 12  # classes that the page lists


def run(args):
    """Serves the page until it is interrupted."""
    gradio = _library()
    print("Loading the models, which takes up to a minute", file=sys.stderr, flush=True)
    page = make_page(gradio, load_models(args.models, args.image_size), example_photo())
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
        # Not after what browsers that have the page open may still ask for, of which the server
        # would tell as of errors.
        logging.getLogger("uvicorn.error").disabled = True
        page.server.force_exit = True
        page.close(verbose=False)
        # Python would look through all objects of the libraries again and again before it ends,
        # which takes seconds, or ten on a busy machine.
        gc.freeze()


def after_interruption(args):
    """Says that Ctrl-C has ended what was to be ended by it."""
    return "The page is closed."


def serve(page, port=None, inbrowser=False):
    """Opens the page to this machine, and to nobody else."""
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


def load_models(names, image_size=None):
    """Loads the models of the page: those that are named, then shipped ones of other kinds; returns
    a dict {name: model}.
    """
    models = {}
    for name in names or [SHIPPED[False]]:
        model = load(name, image_size)
        for other, shown in models.items():
            if is_segmenter(model) == is_segmenter(shown):
                raise DMFormerError(
                    f"The page shows one classifier and one segmenter, and {other} and {name} are "
                    "of the same kind; leave one out."
                )
        models[name] = model
    for missing in {False, True} - {is_segmenter(model) for model in models.values()}:
        models[SHIPPED[missing]] = load(SHIPPED[missing])
    return models


def example_photo():
    """Returns the path of a photograph to begin with, or None without scikit-learn.

    Source: china.jpg of scikit-learn's sample images, by danielbuechele, CC BY 2.0.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None:
        return None
    path = Path(found.origin).parent / "datasets" / "images" / "china.jpg"
    return path if path.is_file() else None


def make_page(gradio, models, example=None):
    """Returns the page, a tab for each model."""
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.Markdown(f"# {TITLE}\nDrop a photograph of your own on the first picture.")
        with gradio.Tabs():
            for number, (name, model) in enumerate(models.items()):
                with gradio.Tab("Each pixel" if is_segmenter(model) else "The photograph") as tab:
                    _add_tab(gradio, name, model, example, tab.select if number else page.load)
        if example is not None:
            gradio.Markdown("The photograph to begin with is danielbuechele's, CC BY 2.0.")
    return page


def _add_tab(gradio, name, model, example, opened):
    """What is on a tab; `opened` is the event on which it is first filled."""
    names, segments = class_names_of(model), is_segmenter(model)

    def shown(path, looked_for):
        if path is None:
            return None, None
        try:
            return describe(model, path, None if looked_for == _LIKELIEST else looked_for)
        except DMFormerError as error:
            raise gradio.Error(str(error)) from None

    what = "the class of each pixel" if segments else "the classes of the photograph"
    known = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    gradio.Markdown(
        f"`{name}` finds {what}. It knows {len(names)}: {known}. Whatever the photograph shows, it "
        "gives one of these."
    )
    with gradio.Row():
        image = gradio.Image(
            None if example is None else str(example),
            type="filepath", sources=["upload", "clipboard"], label="Photograph",
            image_mode=None,  # as it is: `load_image` brings it to the model's channels
        )  # fmt: skip
        # It would open the file by rules of its own, and has no sentence for what is no image.
        opener = image.preprocess
        image.preprocess = lambda sent: (sent and sent.path) or opener(sent)
        picture = gradio.Image(
            label="Classes of the pixels" if segments else "Where it is seen", format="png",
            buttons=["download", "fullscreen"], interactive=False,
        )  # fmt: skip
        classes = gradio.Label(num_top_classes=5, label="Share" if segments else "Probability")
    looked_for = gradio.Dropdown(
        [_LIKELIEST, *names], value=_LIKELIEST, label="Class to look for", visible=not segments
    )
    gradio.on(
        [opened, image.change, looked_for.change],
        shown,
        [image, looked_for],
        [classes, picture],
        api_name="segment" if segments else "classify",
    )


def describe(model, path, name=None):
    """Says what is in an image, and draws where; returns ({class name: probability, or share of the
    pixels}, `PIL.Image.Image`).
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
    import gradio

    return gradio
