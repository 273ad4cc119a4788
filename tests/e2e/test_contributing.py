"""The example of CONTRIBUTING.md, as somebody outside the package would type it."""

import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.core import plugins
from ldm_jax.core.rng import Purpose, step_key
from ldm_jax.interop.mapping import flatten
from ldm_jax.train import assemble
from ldm_jax.train.checkpoint import read_config, read_item

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def example():
    """Returns files by name, and commands as [environment, arguments], of the conditioner."""
    section = TEXT.partition("## Example: a conditioner in one file")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(python|bash)\n(.*?)```", section, re.DOTALL)
    names = re.findall(r"`(\w+\.py)`[^`]*?:\n\n```python", section, re.DOTALL)
    files = dict(zip(names, [text for kind, text in blocks if kind == "python"], strict=True))
    commands = []
    for kind, text in blocks:
        for line in text.splitlines() if kind == "bash" else ():
            words = shlex.split(line)
            program = words.index("ldm-jax")
            settings = dict(word.split("=") for word in words[:program])
            commands.append((settings, words[program + 1 :]))
    return files, commands


def test_a_conditioner_from_outside_the_package(tmp_path, monkeypatch, capfd):
    files, commands = example()
    assert list(files) == ["bag_of_words.py", "bag_of_words_config.py"]
    monkeypatch.setattr(plugins, "_allowed", set())
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        Path(name).write_text(text)
    (no_settings, train), (settings, sample) = commands
    assert (no_settings, settings) == ({}, {"LDM_JAX_PLUGINS": "bag_of_words"})
    assert main(train) == 0
    config = read_config("runs/bag")
    assert config.task.conditioner.name == "bag_of_words:BagOfWords"
    rows = [json.loads(row) for row in Path("runs/bag/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20]
    assert all(math.isfinite(row["loss"]) for row in rows)

    task = assemble.build_task(config)
    before = task.init_conditioner(_conditioner_key(config))
    after = read_item("runs/bag", "params", "conditioner", before)
    moved = {
        path: float(np.abs(x - np.asarray(flatten(before)[path])).max())
        for path, x in flatten(after).items()
    }
    # Twenty steps of Adam, each up to the learning rate; the null is among what is trained.
    assert moved.keys() == {"words/embedding", "nothing"}
    assert all(1e-3 < distance < 0.1 for distance in moved.values())

    # A stored configuration starts nobody's code: only what the user names.
    monkeypatch.setattr(plugins, "_allowed", set())
    capfd.readouterr()
    assert main(sample) == 2
    refused = capfd.readouterr().err.splitlines()[-1]
    assert refused == (
        "ldm-jax: config.task.conditioner.name=bag_of_words:BagOfWords: a stored configuration "
        "asks for code from outside ldm_jax. Legal, if you trust it: LDM_JAX_PLUGINS=bag_of_words "
        "in the environment, or in Python ldm_jax.core.plugins.allow_plugins('bag_of_words')."
    )
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(sample) == 0
    (image,) = Path("runs/bag/out").glob("*.png")
    with Image.open(image) as drawn:
        assert drawn.size == (16, 16)


def _conditioner_key(config):
    """Returns the key that a run's conditioner was initialised with."""
    import jax

    return jax.random.split(step_key(config.seed, 0, Purpose.PARAMS))[1]
