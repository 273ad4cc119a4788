"""Which code computes: for reports, so that a number can be told from that of other code."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

# Not imported: the package is a door to the pipeline, which stands above this room.
_PACKAGE: Any = sys.modules[__name__.partition(".")[0]]


def package_version() -> str:
    """Returns the version of the package, as '0.1.0'."""
    return str(_PACKAGE.__version__)


@functools.cache
def code_version() -> str:
    """Returns the package's version and, where git tracks its files, the commit they are of.

    As '0.1.0' or '0.1.0 g3f2a1c9d8e7b'; '-changed' at its end says that files of the package
    differ from that commit.
    """
    folder = Path(_PACKAGE.__file__).parent
    # A package that is installed below somebody's repository is none of its files.
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return package_version()
    commit = _git(folder, "rev-parse", "--short=12", "HEAD")
    if commit is None:
        return package_version()
    changed = "-changed" if _git(folder, "status", "--porcelain", ".") else ""
    return f"{package_version()} g{commit}{changed}"


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
