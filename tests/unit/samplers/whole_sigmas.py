"""Noise levels whose sigmas are whole numbers, so that a step's weights can be written by hand."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels


def levels_of(*sigmas):
    """Returns levels of descending sigmas; all but the last are timesteps S - 1 to 0."""
    alpha_bar = 1 / (1 + np.array(sigmas, np.float64) ** 2)
    steps = len(sigmas) - 1
    return Levels(np.arange(steps)[::-1].astype(np.float64), alpha_bar, alpha_bar[-2::-1])


def signal(sigma):
    return 1 / np.sqrt(1 + np.square(sigma))


def assert_rows(rows, **columns):
    """Raises unless these columns, each [R] or one number, are so, and all others are 0."""
    for name in rows.__dataclass_fields__:
        if name not in ("t", "index"):
            expected = columns.pop(name, 0) + np.zeros(len(rows))
            np.testing.assert_allclose(
                getattr(rows, name), expected, rtol=1e-12, atol=1e-12, err_msg=name
            )
    if "t" in columns:
        np.testing.assert_allclose(rows.t, columns.pop("t"), rtol=0, atol=1e-12)
    assert not columns
