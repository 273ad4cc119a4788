"""The hash of a first stage, and what it guards."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models import Autoencoder, IdentityFirstStage, VQAutoencoder
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import shardings
from ldm_jax.train.fingerprint import check_first_stage, first_stage_hash, module_settings

MODEL = Autoencoder(channels=8, channel_mult=(1, 2), num_groups=4)


def parameters():
    draw = np.random.default_rng(0)
    return {
        "encoder": {"kernel": draw.normal(size=(8, 16)).astype(np.float32)},
        "bias": draw.normal(size=16).astype(np.float32),
        "scalar": np.float32(3),
    }


def test_the_hash_does_not_depend_on_the_layout():
    params = parameters()
    expected = first_stage_hash(MODEL, params)
    assert re.fullmatch("[0-9a-f]{64}", expected)
    mesh = make_mesh((1, 4, 2))
    split = jax.device_put(params, shardings(mesh, params))
    assert not split["encoder"]["kernel"].sharding.is_fully_replicated
    assert first_stage_hash(MODEL, split) == expected
    turned = dict(reversed(params.items()))
    assert first_stage_hash(MODEL, turned) == expected
    turned["encoder"] = {"kernel": np.asfortranarray(params["encoder"]["kernel"])}
    assert first_stage_hash(MODEL, turned) == expected


def test_every_number_path_type_and_shape_counts():
    params = parameters()
    one = params | {"bias": params["bias"] + np.eye(16, dtype=np.float32)[3] * 1e-6}
    path = {("bias2" if name == "bias" else name): x for name, x in params.items()}
    kind = params | {"bias": jnp.asarray(params["bias"], jnp.bfloat16)}
    shape = params | {"bias": params["bias"].reshape(4, 4)}
    less = {name: x for name, x in params.items() if name != "scalar"}
    hashes = {first_stage_hash(MODEL, tree) for tree in (params, one, path, kind, shape, less)}
    assert len(hashes) == 6


def test_settings_count_where_the_numbers_depend_on_them():
    params = parameters()
    expected = first_stage_hash(MODEL, params)
    for same in ({"dtype": jnp.bfloat16}, {"dropout": 0.1}, {"attention_impl": "xla"}):
        assert first_stage_hash(MODEL.clone(**same), params) == expected
    # A field at its default is not read: one that a later version adds changes no hash.
    assert first_stage_hash(MODEL.clone(image_channels=3), params) == expected
    for other in ({"image_channels": 1}, {"mid_attention": False}, {"embed_dim": 3}):
        assert first_stage_hash(MODEL.clone(**other), params) != expected
    pixels = {first_stage_hash(IdentityFirstStage(channels), {}) for channels in (1, 3)}
    assert len(pixels) == 2


def test_settings_have_no_fields_of_flax():
    settings = module_settings(VQAutoencoder(channels=8, channel_mult=(1,), num_groups=4))
    assert settings["name"] == "VQAutoencoder"
    assert settings["num_codes"] == 8192
    assert not {"parent", "dtype", "posterior", "moments"} & settings.keys()


def test_another_first_stage_is_refused_and_an_unknown_one_warned_of(caplog):
    check_first_stage("runs/x", {"first_stage": "a" * 64}, "a" * 64)
    assert not caplog.records
    text = (
        "runs/x: the scale of its latents belongs to the first stage aaaaaaaaaaaa, but the one "
        "there is bbbbbbbbbbbb. Legal: the first stage that it was trained with, or training again."
    )
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        check_first_stage("runs/x", {"first_stage": "a" * 64}, "b" * 64)
    with pytest.raises(UserError, match="belongs to the first stage None"):
        check_first_stage("runs/x", {"scale_factor": 1.0}, "b" * 64)
    check_first_stage("runs/x", {}, "a" * 64)
    assert "runs/x: keeps no hash of the first stage" in caplog.text
