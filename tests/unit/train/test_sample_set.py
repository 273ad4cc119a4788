"""What becomes of samples before they are looked at, and a checkpoint that is replaced."""

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.train.sample_set import check_unchanged, put_back


def test_what_is_known_is_put_back():
    drawn, known = np.full((2, 3, 3, 1), 200, np.uint8), np.full((2, 3, 3, 1), 7, np.uint8)
    mask = np.zeros((2, 3, 3), np.uint8)
    mask[1, 2] = 1
    found = put_back(drawn, known, mask)
    assert found.dtype == np.uint8
    assert np.argwhere(found == 200).tolist() == [[1, 2, 0, 0], [1, 2, 1, 0], [1, 2, 2, 0]]
    assert (found == 7).sum() == 15


def test_a_run_that_goes_on_training_is_told(tmp_path):
    for step in (3, 12):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    check_unchanged(tmp_path, 12)
    with pytest.raises(UserError) as caught:
        check_unchanged(tmp_path, 3)
    assert str(caught.value) == (
        f"--workdir={tmp_path}: its checkpoint 3 was replaced while it was read. Legal: the same "
        "command again."
    )
