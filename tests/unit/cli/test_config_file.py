"""A configuration is what its file says now."""

import os
import sys

from ldm_jax.cli.config_args import load_config

CONFIG = "import ml_collections\n\n\ndef get_config():\n    return ml_collections.ConfigDict({})\n"


def test_an_edit_within_a_second_is_seen(tmp_path, monkeypatch):
    """Bytecode would be taken for the file, whose time and length are as before."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "config.py"
    for seed in (1, 2):
        file.write_text(CONFIG.replace("{}", f"{{'seed': {seed}}}"))
        os.utime(file, (1e9, 1e9))
        assert load_config(str(file)).seed == seed
    assert list(tmp_path.iterdir()) == [file]
