import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.lock import folder_lock


def test_one_holder_at_a_time(tmp_path):
    folder = tmp_path / "new" / "folder"
    with folder_lock(folder, f"--out={folder}", "writing"):
        assert (folder / "lock").is_file()
        with pytest.raises(UserError) as error, folder_lock(folder, f"--out={folder}", "writing"):
            pass
        assert str(error.value) == (
            f"--out={folder}: another run is writing there. Legal: wait until it ends, or another "
            "--out."
        )
    with folder_lock(folder, "--out", "writing"):
        pass
