"""Host-side input: sources of examples, image transforms, tokenizers, the batch stream.

Everything here is NumPy, Pillow and Grain; nothing touches an accelerator. A new source is one
file with a class that satisfies `ldm_jax.data.source.Source`, and one line in `SOURCES`; so is a
new derived entry, with `ldm_jax.data.derived.Derived` and `DERIVED`.
"""

from ldm_jax.core.plugins import registry_like
from ldm_jax.data.degradation import LowResolution
from ldm_jax.data.derived import Derived
from ldm_jax.data.folder import Folder
from ldm_jax.data.layout import LayoutTokens
from ldm_jax.data.masks import RandomMask
from ldm_jax.data.neighbours import Neighbours, OwnEmbedding
from ldm_jax.data.records import Records
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.source import Source
from ldm_jax.data.tfds_source import Tfds
from ldm_jax.data.tokenizers import HuggingFaceTokenizer, Tokenizer, WordTokenizer
from ldm_jax.data.webdataset import WebDataset

SOURCES = registry_like(Source, "__len__", "__getitem__")
SOURCES |= {
    "shapes": Shapes,
    "tfds": Tfds,
    "folder": Folder,
    "webdataset": WebDataset,
    "records": Records,
}

# What is made of an example after it is cropped: see `ldm_jax.data.derived.Derived`.
DERIVED = registry_like(Derived, "shape", "__call__")
DERIVED |= {
    "layout": LayoutTokens,
    "low_res": LowResolution,
    "mask": RandomMask,
    "neighbours": Neighbours,
    "image_embedding": OwnEmbedding,
}

TOKENIZERS = registry_like(Tokenizer, "__call__")
TOKENIZERS |= {
    "words": WordTokenizer,
    "huggingface": HuggingFaceTokenizer,
}
