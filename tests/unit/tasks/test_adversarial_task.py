"""The adversarial first stage without PyTorch; its values are held in tests/parity."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import Purpose, StepKeys
from ldm_jax.models import Autoencoder, PatchDiscriminator, VQAutoencoder
from ldm_jax.models.lpips import LPIPS
from ldm_jax.tasks.adversarial import (
    AdversarialAutoencoderTask,
    Perceptual,
    adaptive_weight,
    hinge,
    vanilla,
)
from ldm_jax.train.step import init_state, make_train_step

STAGE = {
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 1,
    "z_channels": 2,
    "embed_dim": 2,
    "num_groups": 4,
}
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
BATCH = {"image": jnp.asarray(IMAGES)}
NOTHING = Perceptual({})


def make_task(kind=VQAutoencoder, **fields):
    extra = {"num_codes": 12} if kind is VQAutoencoder else {}
    settings = {"perceptual_weight": 0.0, "reduction": "mean", "disc_start": 0, **fields}
    return AdversarialAutoencoderTask(
        model=kind(**STAGE, **extra),
        image_size=16,
        discriminator=PatchDiscriminator(4, 2),
        **settings,
    )


def keys(step=5):
    return StepKeys(jnp.int32(step), jnp.arange(4, dtype=jnp.int32), 3)


@pytest.mark.parametrize("kind", [VQAutoencoder, pytest.param(Autoencoder, marks=pytest.mark.slow)])
def test_every_parameter_of_both_players_and_the_codebook_moves(kind):
    # Hinge logits within [-1, 1] would leave the last bias where it is, real against fake.
    task = make_task(kind, disc_loss="vanilla")
    optimizers = {name: optax.adam(1e-3) for name in task.groups}
    state = init_state(task, optimizers, jax.random.key(0), BATCH)
    step = jax.jit(make_train_step(task, optimizers, seed=0))
    after, metrics = step(state, NOTHING, BATCH)
    after, metrics = step(after, NOTHING, BATCH)
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), after.params, state.params)
    still = [k for k, v in jax.tree_util.tree_leaves_with_path(moved) if not v]
    assert still == []
    expected = {"generator/loss", "discriminator/loss", "generator/d_weight", "generator/g_loss"}
    expected |= {"discriminator/logits_real", "discriminator/logits_fake"}
    if kind is VQAutoencoder:
        expected |= {"generator/code_usage", "generator/code_perplexity", "generator/codebook"}
    assert expected <= set(metrics)
    statistics = after.mutable["discriminator"]["batch_stats"]["norm_1"]["mean"]
    assert jnp.any(statistics != 0)


def test_the_discriminators_gradient_does_not_reach_the_generator_and_the_other_way_around():
    task = make_task()
    params, mutable = task.init(jax.random.key(0), BATCH)

    def loss(params, group):
        return task.loss(group, params, mutable, NOTHING, BATCH, keys()).loss

    of_judge = jax.jit(jax.grad(loss), static_argnums=1)(params, "discriminator")
    assert all(np.all(x == 0) for x in jax.tree.leaves(of_judge["autoencoder"]))
    assert any(np.any(x != 0) for x in jax.tree.leaves(of_judge["discriminator"]))
    of_generator = jax.jit(jax.grad(loss), static_argnums=1)(params, "generator")
    assert all(np.all(x == 0) for x in jax.tree.leaves(of_generator["discriminator"]))


def test_the_adversarial_gradient_begins_at_its_start():
    task = make_task(disc_start=6, disc_weight=1.0)
    params, mutable = task.init(jax.random.key(0), BATCH)

    def gradient(step, task):
        def loss(params):
            return task.loss("generator", params, mutable, NOTHING, BATCH, keys(step)).loss

        return jax.jit(jax.grad(loss))(params)["autoencoder"]["decoder"]["conv_out"]["bias"]

    alone = make_task(disc_start=10**9)
    np.testing.assert_array_equal(gradient(5, task), gradient(5, alone))
    assert np.any(gradient(6, task) != gradient(6, alone))


def test_losses_of_logits():
    real, fake = jnp.array([2.0, 0.5]), jnp.array([-3.0, 1.0])
    # relu(1 - real) = 0, 0.5 and relu(1 + fake) = 0, 2.
    np.testing.assert_allclose(hinge(real, fake), 0.5 * (0.25 + 1.0))
    expected = 0.5 * (np.log1p(np.exp([-2.0, -0.5])).mean() + np.log1p(np.exp([-3.0, 1.0])).mean())
    np.testing.assert_allclose(vanilla(real, fake), expected, rtol=1e-6)


def test_the_adaptive_weight_and_its_bounds():
    a, b = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])
    np.testing.assert_allclose(adaptive_weight(a, b), 5.0 / (2.0 + 1e-4), rtol=1e-6)
    np.testing.assert_allclose(adaptive_weight(a, 0 * b), 1e4)
    np.testing.assert_allclose(adaptive_weight(0 * a, b), 0.0)
    gradient = jax.grad(lambda a: adaptive_weight(a, b))(a)
    np.testing.assert_array_equal(gradient, 0 * a)


@pytest.mark.parametrize("reference", [False, True])
def test_the_total_of_a_quantised_stage(reference):
    task = make_task(codebook_weight=3.0, codebook_beta=0.2, disc_weight=0.6, reference=reference)
    params, mutable = task.init(jax.random.key(0), BATCH)
    out = jax.jit(lambda p: task.loss("generator", p, mutable, NOTHING, BATCH, keys()))(params)
    m = {name: float(value) for name, value in out.metrics.items()}
    x = BATCH["image"] / 127.5 - 1.0
    x_hat, code = task.forward(params, x, keys())
    z, e = np.asarray(code.latent, np.float64), np.asarray(code.quantized, np.float64)
    # Codes and commitment have the same value: (1 + beta) · mean‖e - z‖² in both forms.
    np.testing.assert_allclose(m["codebook"], 1.2 * np.mean((z - e) ** 2), rtol=1e-4)
    np.testing.assert_allclose(
        out.loss, m["nll"] + m["d_weight"] * m["g_loss"] + 3.0 * m["codebook"], rtol=1e-5
    )
    np.testing.assert_allclose(
        m["nll"], np.mean(np.abs(BATCH["image"] / 127.5 - 1.0 - x_hat)), rtol=1e-5
    )


def test_beta_stands_where_it_is_said_to():
    """The codes' gradient alone tells: commitment does not reach them."""

    def codes_gradient(**fields):
        task = make_task(disc_start=10**9, codebook_beta=0.2, **fields)
        params, mutable = task.init(jax.random.key(0), BATCH)

        def loss(params):
            return task.loss("generator", params, mutable, NOTHING, BATCH, keys()).loss

        return jax.jit(jax.grad(loss))(params)["autoencoder"]["codebook"]

    np.testing.assert_allclose(
        codes_gradient(reference=True), 0.2 * codes_gradient(), rtol=1e-4, atol=1e-9
    )
    np.testing.assert_allclose(
        codes_gradient(codebook_weight=5.0), 5.0 * codes_gradient(), rtol=1e-4, atol=1e-9
    )


class NoisyDistance(nn.Module):
    """Stands for LPIPS, whose network is large."""

    @nn.compact
    def __call__(self, x, y, *, deterministic=True):
        return nn.Dropout(0.5)(jnp.abs(x - y), deterministic=deterministic).mean((1, 2, 3))


@pytest.mark.slow
def test_dropout_within_lpips_is_active_and_part_of_the_reference():
    assert make_task(reference=True).perceptual_distance.dropout == 0.5
    assert make_task().perceptual_distance.dropout == 0.0
    assert make_task(reference=True, lpips=LPIPS(dropout=0.1)).perceptual_distance.dropout == 0.1
    task = make_task(perceptual_weight=1.0, lpips=NoisyDistance(), disc_start=10**9)
    params, mutable = task.init(jax.random.key(0), BATCH)
    found = task.loss("generator", params, mutable, NOTHING, BATCH, keys()).metrics
    x = BATCH["image"] / 127.5 - 1.0
    x_hat, _ = task.forward(params, x, keys())
    rngs = {"dropout": keys().shared(Purpose.LPIPS_DROPOUT)}
    expected = NoisyDistance().apply({}, x, x_hat, deterministic=False, rngs=rngs)
    np.testing.assert_allclose(found["lpips"], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["nll"], found["l1"] + found["lpips"], rtol=1e-5)


def test_squares_instead_of_absolute_errors():
    task = make_task(pixel_loss="l2", disc_start=10**9)
    params, mutable = task.init(jax.random.key(0), BATCH)
    found = task.loss("generator", params, mutable, NOTHING, BATCH, keys()).metrics
    x_hat, _ = task.forward(params, BATCH["image"] / 127.5 - 1.0, keys())
    error = np.mean(np.square(BATCH["image"] / 127.5 - 1.0 - x_hat))
    np.testing.assert_allclose(found["nll"], error, rtol=1e-5)
    assert "lpips" not in found  # which nobody computed


def test_no_type_is_weak_so_that_the_step_compiles_once():
    state = jax.eval_shape(make_task().init, jax.random.key(0), BATCH)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))


def revise(task, shares, step):
    params = {"autoencoder": {"codebook": jnp.zeros((4, 2))}}
    usage = {"shares": jnp.array(shares), "candidates": jnp.ones((4, 2))}
    params, mutable = task.revise("generator", params, {"codebook": usage}, jnp.int32(step))
    return params["autoencoder"]["codebook"][:, 0], mutable["codebook"]["shares"]


def test_dead_codes_are_replaced_and_get_a_new_chance():
    shares = [0.5, 0.49, 0.01, 0.0]
    codes, after = revise(make_task(revive_below=0.1), shares, 7)  # a tenth of a quarter
    np.testing.assert_array_equal(codes, [0, 0, 1, 1])
    np.testing.assert_allclose(after, [0.5, 0.49, 0.25, 0.25])
    codes, after = revise(make_task(), shares, 7)
    np.testing.assert_array_equal(codes, 0)
    np.testing.assert_allclose(after, shares)


def test_codes_may_start_as_latents_of_the_first_batch():
    task = make_task(code_init="data")
    np.testing.assert_array_equal(revise(task, [0.25] * 4, 0)[0], 1)
    np.testing.assert_array_equal(revise(task, [0.25] * 4, 1)[0], 0)
    params, mutable = task.init(jax.random.key(0), BATCH)
    out = task.loss("generator", params, mutable, NOTHING, BATCH, keys(0))
    latents = task.model.apply(
        {"params": params["autoencoder"]}, BATCH["image"] / 127.5 - 1.0, method="encode"
    ).latent.reshape(-1, 2)
    candidates = np.asarray(out.mutable["codebook"]["candidates"])
    distances = np.abs(candidates[:, None] - np.asarray(latents)[None]).max(-1).min(1)
    np.testing.assert_allclose(distances, 0, atol=1e-5)


def test_the_average_of_use_keeps_most_of_the_past():
    task = make_task()
    params, mutable = task.init(jax.random.key(0), BATCH)
    out = task.loss("generator", params, mutable, NOTHING, BATCH, keys())
    shares = np.asarray(out.mutable["codebook"]["shares"])
    np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
    counted = (shares - 0.99 / 12) / 0.01
    np.testing.assert_allclose(counted * 256, np.round(counted * 256), atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pixel_loss": "l3"}, r"^task\.pixel_loss: got 'l3'.* Legal: l1, l2\.$"),
        ({"reduction": "max"}, r"^task\.reduction: got 'max'.* Legal: sum, mean\.$"),
        ({"disc_loss": "ls"}, r"^task\.disc_loss: got 'ls'.* Legal: hinge, vanilla\.$"),
        ({"code_init": "kmeans"}, r"^task\.code_init: got 'kmeans'.* Legal: uniform, data\.$"),
        ({"disc_weight": -1.0}, r"^task\.disc_weight=-1\.0: legal is 0 or more\.$"),
        ({"codebook_weight": -1.0}, r"^task\.codebook_weight=-1\.0: legal is 0 or more\.$"),
        ({"kind": Autoencoder, "code_init": "data"}, r"the model has no codebook\. Legal: with"),
        ({"kind": Autoencoder, "revive_below": 0.1}, r"the model has no codebook\. Legal: with"),
    ],
)
def test_mistakes_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        make_task(**fields)
