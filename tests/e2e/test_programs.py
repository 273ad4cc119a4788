"""The compiled parts of sampling: one program for all settings, run in pieces, really split."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import TextTransformer
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.models import Autoencoder, UNet
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import replicated, shardings
from ldm_jax.pipeline import Pipeline, Region
from ldm_jax.samplers import SAMPLERS
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.guided import Controls
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.sampling import Programs, bucket_size, buckets

IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
LEFT = np.repeat(np.arange(16) < 8, 16).reshape(16, 16).T.astype(np.float32)
RED, BLUE = "a large red circle at the top left", "a small blue cross at the bottom right"


@pytest.fixture(scope="module")
def pipeline(runs):
    return Pipeline.from_checkpoint(runs.text)


@contextlib.contextmanager
def compilations():
    """Counts every program that is compiled or read from the cache meanwhile."""
    found = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def advances(pipeline):
    """Returns how many programs of `advance` there are."""
    return sum(programs.advance._cache_size() for programs in pipeline._programs.values())


# Each differs from the first call in something.
SAME_PROGRAM = [
    {"sampler": "dpmpp_2m", "steps": 3},
    {"sampler": "heun", "steps": 2, "spacing": "karras"},
    {"sampler": {"name": "ddim", "eta": 1.0}, "steps": 5, "spacing": "leading"},
    {"sampler": "ddpm", "seed": [7, 8]},
    {"seed": 9, "first_index": 100, "guidance_scale": [0.0, 7.5]},
    {"negative": "a cross"},
    {"variation_seed": 3, "variation_weight": 0.5},
    {"toward": BLUE, "toward_weight": 0.3},
    {"image": IMAGE, "strength": 0.5, "steps": 4},
    {"image": IMAGE, "strength": 1.0, "steps": 3},
]


def test_the_measure_counts_programs():
    with compilations() as found:
        jax.jit(lambda x: jnp.cos(x) + 0.123)(jnp.ones(3)).block_until_ready()
    assert found


def test_one_program_serves_all_settings(pipeline):
    before = advances(pipeline)
    pipeline([RED, BLUE], steps=2)
    assert advances(pipeline) == before + 1
    for arguments in SAME_PROGRAM:
        pipeline([BLUE, RED], **arguments)
        assert advances(pipeline) == before + 1, arguments
    # Now that each part is there, the same kinds of call with other values compile nothing at all.
    with compilations() as found:
        for seed, arguments in enumerate(SAME_PROGRAM):
            pipeline([RED, ""], **{**arguments, "seed": seed, "steps": 6 + seed})
    assert found == []


def test_a_mask_and_a_region_are_one_program_more_each(pipeline):
    pipeline([RED, BLUE], steps=2)
    before = advances(pipeline)
    for seed, strength in ((0, 1.0), (1, 0.5)):
        mask = LEFT if seed else 1 - LEFT
        pipeline(RED, image=IMAGE, mask=mask, strength=strength, seed=seed, steps=3 + seed)
    assert advances(pipeline) == before + 1
    for mask in (LEFT, 1 - LEFT):
        pipeline(RED, regions=[Region(BLUE, mask)], steps=3)
    assert advances(pipeline) == before + 2
    pipeline(RED, guidance_scale=1.0)  # without the second half of the batch
    assert advances(pipeline) == before + 3


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "ddim", "eta": 0.0},
        {"name": "ddim", "eta": 1.0},
        "dpmpp_2m",
        "dpmpp_3m_sde",
        "heun",
    ],
    ids=str,
)
def test_pieces_give_the_bits_of_the_whole(pipeline, sampler):
    arguments = {"sampler": sampler, "steps": 7, "seed": 5, "output": "float32"}
    expected = pipeline([RED, BLUE], **arguments)
    generation = pipeline.start([RED, BLUE], **arguments)
    for rows in (1, 3, 2):
        generation.advance(rows)
        assert generation.preview().shape == expected.shape
    assert not generation.done
    np.testing.assert_array_equal(generation.images(), expected)
    assert generation.done


def test_bucket_sizes():
    for count, shards, most, expected in (
        (1, 8, 4, 8),
        (9, 8, 4, 16),
        (17, 8, 4, 32),
        (99, 2, 4, 8),
    ):
        assert bucket_size(count, shards, most) == expected
    parts = buckets(5, 4)
    np.testing.assert_array_equal(parts, [[0, 1, 2, 3], [4, 4, 4, 4]])


AUTOENCODER = Autoencoder(
    channels=8, channel_mult=(1, 2), num_res_blocks=0, num_groups=4, mid_attention=False
)
TASK = LatentDiffusionTask(
    UNet(
        out_channels=4,
        channels=16,
        channel_mult=(1,),
        num_res_blocks=0,
        num_heads=4,
        transformer_depth=1,
        num_groups=4,
    ),
    TextTransformer(vocab_size=16, length=4, dim=16, depth=1, num_heads=4, head_dim=4),
    FirstStage(AUTOENCODER),
    make_schedule(num_timesteps=100),
    jnp.ones((100,)),
    image_size=16,
)
BUCKET = 8


def arguments_of_advance(programs):
    """Returns what `advance` takes for a bucket of 8 guided images, all on the devices."""
    mesh = programs.mesh
    spec = {"image": jnp.zeros((1, 16, 16, 3)), "tokens": jnp.zeros((1, 4), jnp.int32)}
    draw = np.random.default_rng(0)

    def fill(tree):
        return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32) / 4, tree)

    params = fill(jax.eval_shape(lambda: TASK.init(jax.random.key(0), spec)[0]))
    stage = fill(jax.eval_shape(lambda: TASK.first_stage.init(jax.random.key(0), 16)))
    frozen = Frozen(stage, fixed_scale(4, 0.5))
    params, frozen = jax.device_put((params, frozen), shardings(mesh, (params, frozen)))
    put = programs.put_rows
    inputs, scale, seeds, indices = put(
        (
            {"tokens": draw.integers(0, 16, (BUCKET, 4)).astype(np.int32)},
            np.full(BUCKET, 2, np.float32),
            np.zeros(BUCKET, np.uint32),
            np.arange(BUCKET, dtype=np.int32),
        )
    )
    controls = Controls(
        (programs.condition(params, frozen, inputs),),
        null=programs.null(BUCKET, params, frozen),
        scale=scale,
    )
    state = programs.begin(programs.noise((8, 8, 4), seeds, indices))
    table = programs.put_table(SAMPLERS["ddim"](make_levels(TASK.schedule, 4)))
    bounds = (np.int32(0), np.int32(2))
    return (params, frozen, None, controls, state, table, seeds, indices, *bounds)


@pytest.fixture(scope="module")
def compiled():
    """Returns (programs, arguments, compiled advance) by shape of the mesh."""
    found = {}

    def get(shape):
        if shape not in found:
            mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
            programs = Programs(TASK, mesh)
            arguments = arguments_of_advance(programs)
            found[shape] = (programs, arguments, programs.advance.lower(*arguments).compile())
        return found[shape]

    return get


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
def test_the_batch_is_split_over_all_devices(compiled, shape):
    whole = compiled((1, 1, 1))[2].cost_analysis()["flops"]
    part = compiled(shape)[2].cost_analysis()["flops"]
    assert part == pytest.approx(whole / 8, rel=0.05)


def test_a_device_gets_the_rows_of_its_images_alone(compiled):
    programs, arguments, _ = compiled((8, 1, 1))
    state = programs.begin(programs.noise((8, 8, 4), *arguments[6:8]))
    for array in (*jax.tree.leaves(state), *jax.tree.leaves(arguments[3])):
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {1}
    images, finite = programs.decode(True, arguments[1], state.z)
    assert (images.shape, images.dtype) == ((BUCKET, 16, 16, 3), np.uint8)
    assert images.sharding.is_equivalent_to(replicated(programs.mesh), images.ndim)
    assert np.all(finite)


def test_the_state_is_donated(compiled):
    programs, arguments, advance = compiled((8, 1, 1))
    state = arguments[4]
    one = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) // 8
    assert advance.memory_analysis().alias_size_in_bytes >= one
    after = programs.advance(*arguments)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert np.isfinite(after.z).all()


def test_what_was_looked_at_stays_as_it_was(runs):
    # On one device NumPy sees the buffer itself, which the next rows may not overwrite.
    pipeline = Pipeline.from_checkpoint(runs.text, mesh=make_mesh((1, 1, 1), jax.devices()[:1]))
    noise = np.random.default_rng(0).standard_normal((1, 8, 8, 2)).astype(np.float32)
    given = noise.copy()
    generation = pipeline.start(RED, steps=4, latents=given)
    generation.advance(1)
    latents, preview = generation.latents(), generation.preview()
    before = latents.copy(), preview.copy()
    generation.advance()
    np.testing.assert_array_equal(latents, before[0])
    np.testing.assert_array_equal(preview, before[1])
    np.testing.assert_array_equal(given, noise)
    assert not np.array_equal(generation.latents(), before[0])
