"""Every task of the paper on the built-in shapes at 32×32, one conditioning each.

Paper: sections 4.1, 4.3 to 4.5; the U-Net and first stage of `shapes_text.py`. The argument names
the task: unconditional, class, two_objects (captions of two objects), layout (boxes as tokens,
section 4.3.1), semantic (label maps, section 4.3.2), super_resolution (×4 bicubic, section 4.4),
inpainting (random strokes and boxes, section 4.5), retrieval (embeddings of four other images that
look alike, Blattmann et al. 2022) and variations (the embedding of the image itself). The last two
read embeddings of the scenes, which `experiments/tasks/embed.py` writes.
Command: ldm-jax train --config configs/shapes_tasks.py --workdir runs/shapes_class \
  --config.task.first_stage.workdir=runs/shapes_autoencoder
with `shapes_tasks.py:layout` for layouts, and so on.
Result: experiments/tasks/README.md.
"""

import shapes_text
from ml_collections.config_dict import placeholder

from ldm_jax.data.shapes import RELATIONS_VOCABULARY

_EDGE, _LATENT, _CHANNELS = 32, 8, 4
_EMBEDDED = 8  # numbers of an embedding of experiments/tasks/embed.py


def unconditional(config):
    """No condition: scenes of one object."""
    config.task.conditioner = {"name": "none"}
    config.task.condition_drop_rate = 0.0
    config.task.model.transformer_depth = 0
    config.task.model.attention_factors = (1, 2)
    config.sample.guidance_scale = 1.0


def class_label(config):
    """One of 24 classes, colour and shape, added to the embedding of time.

    So every block hears of it, and attention is the plain one, at all levels: where the object goes
    is for all pixels to agree.
    """
    config.task.conditioner = {
        "name": "class_label",
        "num_classes": 24,
        "dim": 192,  # 4 × the channels of the U-Net
        "route": "embedding",
    }
    config.task.model.transformer_depth = 0
    config.task.model.attention_factors = (1, 2)
    config.sample.guidance_scale = 2.5


def two_objects(config):
    """Captions such as 'a small red circle at the top left above a large blue cross at the ...'."""
    config.data.source.update(min_objects=2, max_objects=2, captions="relation")
    config.data.tokenizer.vocabulary = RELATIONS_VOCABULARY
    config.data.tokenizer.length = 20
    config.task.conditioner.update(vocab_size=len(RELATIONS_VOCABULARY) + 2, length=20)
    config.task.model.attention_factors = (1, 2)  # cells of 8 pixels would lie across two objects


def layout(config):
    """Boxes of one to three objects with their classes, as 92 tokens would be at full size."""
    config.data.source.update(min_objects=1, max_objects=3)
    config.data.derive = {"layout": {"num_objects": 3, "vocab_size": 1025}}  # 32 × 32 corners
    config.task.conditioner.update(key="layout", vocab_size=1025, length=11)
    config.task.model.attention_factors = (1, 2)


def semantic(config):
    """A map of the ground and four shapes, averaged to the latent's size.

    Eight numbers a label, where the paper has three: circles and squares are told apart sooner.
    """
    config.data.source.update(min_objects=1, max_objects=3)
    config.task.conditioner = {
        "name": "spatial_rescaler",
        "num_classes": 5,
        "image_size": _EDGE,
        "out_channels": 8,
    }
    config.sample.guidance_scale = 1.0


def super_resolution(config):
    """Images of 8×8 pixels, concatenated to the latent."""
    config.data.source.update(min_objects=1, max_objects=3)
    config.data.derive = {"low_res": {"factor": 4}}
    shape = (_LATENT, _LATENT, 3)
    config.task.conditioner = {
        "name": "identity",
        "key": "low_res",
        "route": "concat",
        "shape": shape,
    }
    config.sample.guidance_scale = 1.0


def inpainting(config):
    """The latent of the image with holes and the mask of these, concatenated to the latent.

    Scenes of 64×64 pixels and nine objects, as many as there is room for, each of several latents,
    and holes smaller than one of them: of what is hidden whole, nobody can know that it was there.

    Masks of one's own, beside the images of a folder, take the place of random ones with
    --config.data.derive.mask=None.
    """
    config.data.source.update(min_objects=9, max_objects=9, image_size=2 * _EDGE)
    config.data.image_size = 2 * _EDGE
    config.task.model.transformer_depth = 0  # nothing to attend to but the image itself
    config.task.mask_cells = "share"  # strokes are as thin as a cell
    mask = {"min_width": 0.1, "max_width": 0.16, "min_box": 0.12, "max_box": 0.25}
    config.data.derive = {"mask": mask}
    shape = (2 * _LATENT, 2 * _LATENT, _CHANNELS + 1)
    config.task.conditioner = {
        "name": "identity",
        "key": "masked_image",
        "route": "concat",
        "shape": shape,
    }
    config.sample.guidance_scale = 1.0


def retrieval(config):
    """Four tokens: the embeddings of the nearest other images."""
    _embedded(config, "neighbours", 4)
    config.data.derive.neighbours.k = 4


def variations(config):
    """One token: the embedding of the image itself, which says what it shows but not where."""
    _embedded(config, "image_embedding", 1)


def _embedded(config, key, tokens):
    config.data.source.num_examples = 10_000  # as many as there are embeddings
    config.data.derive = {key: {"embeddings": placeholder(str)}}
    config.task.conditioner = {
        "name": "identity",
        "key": key,
        "route": "context",
        "shape": (tokens, _EMBEDDED),
        "scale": _EMBEDDED**0.5,  # embeddings have length 1
    }
    config.task.model.attention_factors = (1, 2)  # all levels, as in the published model
    config.train.steps = 4000  # of these, 2000 follow the neighbours in 72 % of the images


# What is told where it goes, pixel by pixel, is learned sooner than what words or tokens tell, and
# this sooner than what has no place.
STEPS = {"super_resolution": 1200, "semantic": 1800, "layout": 4000, "unconditional": 4000}
STEPS |= {"class": 6000, "two_objects": 5000, "inpainting": 2000}

TASKS = {
    "unconditional": unconditional,
    "class": class_label,
    "two_objects": two_objects,
    "layout": layout,
    "semantic": semantic,
    "super_resolution": super_resolution,
    "inpainting": inpainting,
    "retrieval": retrieval,
    "variations": variations,
}


def get_config(task="class"):
    """Returns the configuration of one of `TASKS`."""
    config = shapes_text.get_config()
    with config.unlocked(), config.ignore_type():
        TASKS[task](config)
        config.train.steps = STEPS.get(task, config.train.steps)
        if task not in ("two_objects",):
            del config.data["tokenizer"]
    return config
