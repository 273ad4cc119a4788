"""By which code something was computed."""

import subprocess
from types import SimpleNamespace

import pytest

import ldm_jax
from ldm_jax.train import code_version as module


@pytest.fixture
def version(tmp_path, monkeypatch):
    """Returns the version of a package of one file, in tmp_path/package."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    fake = SimpleNamespace(__file__=str(folder / "__init__.py"), __version__="1.2")
    monkeypatch.setattr(module, "_PACKAGE", fake)
    return module.code_version.__wrapped__


def git(folder, *arguments):
    who = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_told_where_git_tracks_the_package(version, tmp_path):
    assert version() == "1.2"
    git(tmp_path, "init", "-q")
    assert version() == "1.2"  # somebody's repository, of which the package is no part
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "--short=12", "HEAD")
    assert version() == f"1.2 g{commit}"
    (tmp_path / "other").write_text("no file of the package")
    assert version() == f"1.2 g{commit}"
    (tmp_path / "package" / "__init__.py").write_text("changed = True")
    assert version() == f"1.2 g{commit}-changed"


def test_it_begins_with_the_package_version():
    assert module.package_version() == ldm_jax.__version__
    assert module.code_version().split()[0] == ldm_jax.__version__
