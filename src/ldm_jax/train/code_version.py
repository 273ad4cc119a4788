"""Which code computes: for reports, so that a number can be told from that of other code."""

import functools
import subprocess
from pathlib import Path

import ldm_jax


@functools.cache
def code_version() -> str:
    """Returns the package's version and, where git tracks its files, the commit they are of.

    As '0.1.0' or '0.1.0 g3f2a1c9d8e7b'; '-changed' at its end says that files of the package
    differ from that commit.
    """
    folder = Path(ldm_jax.__file__).parent
    # A package that is installed below somebody's repository is none of its files.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return ldm_jax.__version__
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return ldm_jax.__version__
    changed = "-changed" if _git(folder, "status", "--porcelain", ".") else ""
    return f"{ldm_jax.__version__} g{commit}{changed}"


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns what git says, or None where there is none, or no repository."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
