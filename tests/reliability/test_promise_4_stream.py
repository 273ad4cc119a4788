"""Promise 4: the same stream of batches for any number of processes, changed midway or not.

Processes are simulated here by what the code asks JAX: how many there are, and which one this is.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from ldm_jax.cli.config_args import load_config
from ldm_jax.train import assemble, assemble_data

TINY = Path(__file__).parents[1] / "e2e" / "tiny.py"
STEPS = 4


def config():
    """Shapes with captions, shuffled and mirrored."""
    settings = load_config(f"{TINY}:text").unlock()
    settings.seed = 5
    settings.data.flip_probability = 0.5
    settings.data.flip_captions = "any"
    settings.data.source.num_examples = 20  # so that batches of 8 run across epochs
    return settings


def take(settings, count, state=None):
    """Returns STEPS global batches of `count` processes, joined, and where each of them stands."""
    tokenizer = assemble_data.build_tokenizer(settings)
    task = assemble.build_task(settings)
    source, _ = assemble_data.build_source(settings)
    parts, states = [], []
    for index in range(count):
        stream = assemble_data.build_stream(settings, source, task, tokenizer, block=(index, count))
        assert stream.local_batch_size == settings.train.batch_size // count
        if state is not None:
            stream.set_state(json.loads(json.dumps(state)))
        parts.append([next(stream) for _ in range(STEPS)])
        states.append(stream.get_state())
    joined = [
        {key: np.concatenate([batch[key] for batch in step]) for key in step[0]}
        for step in zip(*parts, strict=True)
    ]
    return joined, states


def assert_same(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys() == {"image", "tokens"}
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("counts", [(2, 1), (4, 2), (1, 4)])
def test_batches_do_not_depend_on_the_number_of_processes(counts):
    settings = config()
    first, (before,) = take(settings, 1)
    then, (after,) = take(settings, 1, before)
    assert not np.array_equal(first[0]["image"], then[0]["image"])
    got, states = take(settings, counts[0])
    assert_same(got, first)
    assert states == [before] * counts[0]  # any process's position is everybody's
    got, states = take(settings, counts[1], states[-1])
    assert_same(got, then)
    assert states == [after] * counts[1]
