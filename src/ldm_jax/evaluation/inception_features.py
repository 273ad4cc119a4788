"""The features of the FID: Inception's, from the published file, pinned by its hash."""

import os
from pathlib import Path

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.features import Extracted, Extractor, file_sha256
from ldm_jax.interop.inception_weights import load_inception
from ldm_jax.models.inception import Inception

NAME = "inception"
# pytorch-fid's and torch-fidelity's, which is the same under another name.
FILE = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
RESIZE = "bilinear to 299x299 as TensorFlow 1, without antialiasing"


def inception(weights: str | Path | None = None, sha256: str = SHA256) -> Extractor:
    """Returns the extractor of FID, sFID, KID and Inception Score.

    With weights other than the published ones its name says so, and so do the metrics'.

    Args:
      weights: the file; by default `default_path()`.
      sha256: of the file, for weights that were converted or trained by oneself.

    Raises:
      UserError: there is no such file, or it is another one, or does not hold Inception.
    """
    path = Path(weights).expanduser() if weights else default_path()
    if not path.is_file():
        raise UserError(
            f"extractor inception: no file {path}. Legal: {FILE} (91 MiB) of pytorch-fid's release "
            "'fid_weights' on GitHub, put there or named as the extractor's weights."
        )
    found = file_sha256(path)
    if found != sha256:
        raise UserError(
            f"extractor inception: {path} has sha256 {found}, expected {sha256}. Legal: the file "
            f"{FILE} that pytorch-fid publishes, or sha256={found} if this one is meant."
        )
    name = NAME if found == SHA256 else f"{NAME} {found[:8]}"
    return Extractor(name, found, RESIZE, load_inception(path), _apply)


def default_path() -> Path:
    """Returns where the weights are looked for: in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ldm_jax" / "weights" / FILE


def _apply(params: PyTree, images: Array) -> Extracted:
    output = Inception().bind({"params": params})(images)
    return Extracted(output.features, output.logits, output.spatial)
