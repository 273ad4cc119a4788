"""Channels of a latent as maps of one range."""

from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.inspection.latents import channel_rows, latents_view
from ldm_jax.inspection.view import Subject
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.tasks.first_stage import FirstStage


def test_all_channels_share_a_range():
    z = np.zeros((2, 1, 2, 3), np.float32)
    z[0, 0, :, 1] = -1, 3  # the least and the largest of all
    z[1, 0, 1, 2] = 1
    rows, limits = channel_rows(z, ("a", "b"))
    assert limits == (-1.0, 3.0)
    assert [[cell.label for cell in row] for row in rows] == [
        ["z[0] a", "z[0] b"],
        ["z[1] a", "z[1] b"],
        ["z[2] a", "z[2] b"],
    ]
    np.testing.assert_array_equal(rows[1][0].image[0, :, 0], [0, 255])
    np.testing.assert_array_equal(rows[2][1].image[0, :, 0], [64, 128])  # 0 and 1, of -1 to 3
    np.testing.assert_array_equal(rows[0][0].image[0, :, 0], [64, 64])


def test_pixel_models_have_none():
    task = SimpleNamespace(first_stage=FirstStage(IdentityFirstStage()))
    with pytest.raises(UserError) as error:
        latents_view(Subject(SimpleNamespace(task=task)))
    assert str(error.value) == "latents: this model diffuses pixels. Legal: noising, denoising."
