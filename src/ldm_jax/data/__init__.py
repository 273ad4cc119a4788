"""Host-side input: sources of examples, image transforms, tokenizers, the batch stream.

Everything here is NumPy, Pillow and Grain; nothing touches an accelerator. A new source is one
file with a class that satisfies `ldm_jax.data.source.Source`, and one line in `SOURCES`.
"""

from ldm_jax.data.folder import Folder
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.tfds_source import Tfds
from ldm_jax.data.tokenizers import HuggingFaceTokenizer, WordTokenizer

SOURCES = {
    "shapes": Shapes,
    "tfds": Tfds,
    "folder": Folder,
}

TOKENIZERS = {
    "words": WordTokenizer,
    "huggingface": HuggingFaceTokenizer,
}
