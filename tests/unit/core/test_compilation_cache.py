"""Where compiled programs are kept."""

from pathlib import Path

import jax
import pytest

from ldm_jax.core.compilation_cache import keep_compiled_programs

_OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process whose cache nobody has configured, at home in an empty folder."""
    before = {name: getattr(jax.config, name) for name in _OPTIONS}
    jax.config.update("jax_compilation_cache_dir", None)
    for name in ("LDM_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def configured():
    return jax.config.jax_compilation_cache_dir


def test_on_by_default_in_the_users_cache_folder(fresh, monkeypatch):
    path = keep_compiled_programs()
    assert path == fresh / ".cache" / "ldm_jax" / "programs"
    assert Path(configured()) == path
    assert 0 < jax.config.jax_persistent_cache_min_compile_time_secs <= 1
    # A second call finds it configured, and leaves it.
    monkeypatch.setenv("LDM_JAX_CACHE", str(fresh / "other"))
    assert keep_compiled_programs() is None
    assert Path(configured()) == path


def test_it_follows_the_environment(fresh, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh / "xdg"))
    assert keep_compiled_programs() == fresh / "xdg" / "ldm_jax" / "programs"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("LDM_JAX_CACHE", str(fresh / "mine"))
    assert keep_compiled_programs() == fresh / "mine"


def test_an_empty_variable_turns_it_off(fresh, monkeypatch):
    monkeypatch.setenv("LDM_JAX_CACHE", "")
    assert keep_compiled_programs() is None
    assert configured() is None


def test_one_that_is_configured_stays(fresh):
    jax.config.update("jax_compilation_cache_dir", str(fresh / "own"))
    assert keep_compiled_programs() is None
    assert configured() == str(fresh / "own")
