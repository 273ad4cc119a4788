"""Where arrays live, and how they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from ldm_jax.core.axes import BATCH_AXES
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import (
    batch_sharding,
    bytes_per_device,
    gather_weights,
    partition_spec,
    path_name,
    placed,
    put_batch,
    replicated,
    shardings,
)


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        # Attention by heads and feed-forward by width: columns first, rows second.
        ("params/unet/block_0/self_attn/to_q/kernel", (64, 32), P("fsdp", "tensor")),
        ("params/unet/attn/to_v/bias", (32,), P("tensor")),
        ("params/unet/block_0/cross_attn/to_out/kernel", (32, 64), P("tensor", "fsdp")),
        ("params/unet/block_0/cross_attn/to_out/bias", (64,), P("fsdp")),
        ("params/unet/block_0/ff/gate/kernel", (64, 256), P("fsdp", "tensor")),
        ("params/conditioner/layer_0/ff/hidden/kernel", (64, 256), P("fsdp", "tensor")),
        ("params/unet/block_0/ff/out/kernel", (256, 64), P("tensor", "fsdp")),
        # The optimizer's and the average's paths end like the parameter's.
        ("opt_state/diffusion/0/mu/unet/attn/to_k/kernel", (8, 8), P("fsdp", "tensor")),
        ("ema_params/unet/attn/to_k/kernel", (8, 8), P("fsdp", "tensor")),
        # Everything else: FSDP on the largest axis that divides.
        ("params/unet/conv_in/kernel", (3, 3, 4, 32), P(None, None, None, "fsdp")),
        ("params/unet/conv_out/kernel", (3, 3, 32, 4), P(None, None, "fsdp", None)),
        ("params/unet/conv_out/kernel", (3, 3, 3, 5), P(None, None, None, None)),
        ("params/unet/time_mlp_0/kernel", (6, 9), P("fsdp", None)),
        ("step", (), P()),
        # Axes that do not divide stay whole.
        ("params/unet/attn/to_q/kernel", (64, 31), P("fsdp", None)),
        # The first stage's single head is not split.
        ("params/encoder/mid_attn/attn/to_q/kernel", (32, 32), P("fsdp", None)),
        ("params/autoencoder/decoder/mid_attn/attn/to_q/bias", (32,), P("fsdp")),
        # A part of a tree is laid out as it is within the whole.
        ("encoder/mid_attn/attn/to_q/kernel", (32, 32), P("fsdp", None)),
        ("decoder/mid_attn/attn/to_q/bias", (32,), P("fsdp")),
        ("to_q/kernel", (64, 32), P("fsdp", "tensor")),
        ("out/kernel", (256, 64), P("tensor", "fsdp")),
    ],
)
def test_partition_spec(name, shape, spec):
    assert partition_spec(name, shape, make_mesh((2, 2, 2))) == spec


def test_without_fsdp_only_tensor_splits():
    mesh = make_mesh((4, 1, 2))
    assert partition_spec("a/to_q/kernel", (64, 32), mesh) == P(None, "tensor")
    assert partition_spec("a/conv/kernel", (3, 3, 8, 8), mesh) == P(None, None, None, None)


def test_rules_are_data():
    rules = ((r"/table$", ("tensor", None)),)
    mesh = make_mesh((2, 2, 2))
    assert partition_spec("a/table", (10, 6), mesh, rules) == P("tensor", "fsdp")
    assert partition_spec("a/to_q/kernel", (4, 8), mesh, rules) == P(None, "fsdp")


def test_path_names_of_dicts_sequences_and_dataclasses():
    tree = optax.adam(0.1).init({"unet": {"kernel": jnp.zeros(2)}})
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path({"opt": tree})]
    assert names == ["opt/0/count", "opt/0/mu/unet/kernel", "opt/0/nu/unet/kernel"]


def test_shardings_placed_and_bytes():
    mesh = make_mesh((2, 2, 2))
    abstract = {
        "to_q": {"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32)},
        "odd": jax.ShapeDtypeStruct((3,), jnp.bfloat16),
    }
    tree = {"attn": abstract}
    layout = shardings(mesh, tree)
    assert layout["attn"]["to_q"]["kernel"].spec == P("fsdp", "tensor")
    shapes = placed(mesh, tree)
    assert shapes["attn"]["odd"].dtype == jnp.bfloat16
    assert shapes["attn"]["odd"].sharding == layout["attn"]["odd"]
    assert bytes_per_device(shapes) == 8 * 4 * 4 // 4 + 3 * 2


def test_batches_are_split_by_rows():
    mesh = make_mesh((2, 2, 2))
    batch = put_batch(mesh, {"image": np.arange(8 * 3, dtype=np.uint8).reshape(8, 3)})
    assert batch["image"].sharding.is_equivalent_to(batch_sharding(mesh), 2)
    assert {s.data.shape for s in batch["image"].addressable_shards} == {(2, 3)}
    np.testing.assert_array_equal(batch["image"], np.arange(24).reshape(8, 3))
    assert replicated(mesh).spec == P()


class TestGatherWeights:
    """Whole along fsdp on the way in, summed into parts on the way back."""

    MESH = (2, 2, 2)

    def weights(self):
        rng = np.random.default_rng(0)
        return {
            "to_q": {"kernel": rng.standard_normal((8, 4)).astype(np.float32)},
            "conv": {"kernel": rng.standard_normal((4, 6)).astype(np.float32)},
        }

    def test_layout_and_values(self):
        mesh, weights = make_mesh(self.MESH), {"m": self.weights()}
        stored = jax.device_put(weights, shardings(mesh, weights))
        with jax.set_mesh(mesh):
            used = jax.jit(gather_weights)(stored)
        specs = {"to_q": P(None, "tensor"), "conv": P()}
        for name, spec in specs.items():
            kernel = used["m"][name]["kernel"]
            assert kernel.sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 2)
            np.testing.assert_array_equal(kernel, weights["m"][name]["kernel"])

    def test_gradient_is_right_and_stored_in_parts(self):
        mesh, weights = make_mesh(self.MESH), {"m": self.weights()}
        layout = shardings(mesh, weights)
        x = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)

        def loss(weights, x):
            w = gather_weights(weights)["m"]
            return jnp.sum(jnp.square(x @ w["to_q"]["kernel"] @ w["conv"]["kernel"]))

        with jax.set_mesh(mesh):
            rows = jax.device_put(x, jax.NamedSharding(mesh, P(BATCH_AXES)))
            gradient = jax.jit(jax.grad(loss))(jax.device_put(weights, layout), rows)
        q, c = weights["m"]["to_q"]["kernel"], weights["m"]["conv"]["kernel"]
        upstream = 2 * x @ q @ c
        expected = {"to_q": x.T @ (upstream @ c.T), "conv": (x @ q).T @ upstream}
        for name, value in expected.items():
            kernel = gradient["m"][name]["kernel"]
            np.testing.assert_allclose(kernel, value, rtol=1e-4, atol=1e-4)
            assert kernel.sharding.is_equivalent_to(layout["m"][name]["kernel"], 2)

    def test_without_a_mesh_it_is_the_identity(self):
        weights = self.weights()
        assert gather_weights(weights) is weights
