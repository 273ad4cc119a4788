"""Where the members of tar files lie, so that any one is read without unpacking the others."""

import glob
import pathlib
import re
import tarfile
from typing import BinaryIO, NamedTuple

from ldm_jax.core.checks import UserError, shortened

_COMPRESSED = re.compile(r"\.(tar\.\w+|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_EXPECTED = "Expected a folder of .tar files, one of them, or a pattern such as 'shards/*.tar'"


class Member(NamedTuple):
    """Bytes of a tar file that are one file in it, and when that was changed, in seconds."""

    offset: int
    size: int
    mtime: float

    def read(self, tar: BinaryIO) -> bytes:
        """Returns the bytes, from the tar file."""
        tar.seek(self.offset)
        return tar.read(self.size)


class Sample(NamedTuple):
    """Members of one tar file that share a key.

    Attributes:
      tar: the file.
      key: path in the tar file up to the first dot of its last part.
      members: by what follows that dot, in lower case, such as jpg or seg.png.
    """

    tar: pathlib.Path
    key: str
    members: dict[str, Member]

    def read(self, extension: str) -> bytes:
        """Returns a member's bytes."""
        with self.tar.open("rb") as file:
            return self.members[extension].read(file)


def find_tars(path: str) -> list[pathlib.Path]:
    """Returns the tar files that a path means: a folder, a file, or a pattern with *, ? or {0..9}.

    Raises:
      UserError: there are none, or compressed ones.
    """
    if not path:
        raise UserError(
            f"data.source.path: not set. {_EXPECTED}; set it with --config.data.source.path=PATH."
        )
    whole = pathlib.Path(path).expanduser()
    if whole.is_dir():
        found = [file for file in whole.iterdir() if ".tar" in file.name or _is_compressed(file)]
        found = [file for file in found if file.is_file() and not file.name.endswith(".part")]
    elif whole.is_file():
        found = [whole]
    else:
        names = [name for part in _expand(str(whole)) for name in glob.glob(part, recursive=True)]
        found = [pathlib.Path(name) for name in names]
    if not found:
        raise UserError(f"data.source.path: no tar files in {path!r}. {_EXPECTED}.")
    for file in sorted(found):
        if _is_compressed(file):
            raise UserError(
                f"data.source.path: {file} is compressed, so its members cannot be read one by "
                "one. Legal: plain .tar files; the images in them are compressed already."
            )
    return sorted(file for file in found if file.suffix == ".tar" or file == whole)


def index_tar(tar: pathlib.Path) -> list[Sample]:
    """Returns the samples of a tar file in the order of their first members; only headers are read.

    Raises:
      UserError: it is no plain tar file, is cut short, or holds a member twice.
    """
    samples: dict[str, Sample] = {}
    length = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                vars(archive)["members"] = []  # tarfile would remember every header it has read
                folder, _, base = info.name.rpartition("/")
                stem, _, extension = base.partition(".")
                if not info.isreg() or not stem or not extension:
                    continue  # folders, links, hidden files: nothing of a sample
                if info.issparse() or info.offset_data + info.size > length:
                    raise tarfile.ReadError(f"{shortened(info.name)} is cut short or sparse")
                key = f"{folder}/{stem}" if folder else stem
                members = samples.setdefault(key, Sample(tar, key, {})).members
                if extension.lower() in members:
                    raise UserError(
                        f"data.source.path: {tar} holds {shortened(info.name)} twice. Legal: "
                        "names that differ, in each tar file."
                    )
                members[extension.lower()] = Member(info.offset_data, info.size, info.mtime)
            end = archive.offset
        _check_end(tar, end)
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"data.source.path: {tar} is no whole, plain tar file ({error}). Legal: without it, or "
            "the file copied again."
        ) from error
    return list(samples.values())


def _check_end(tar: pathlib.Path, end: int) -> None:
    # tarfile takes the end of the file, and rubbish, for the end of the archive.
    with tar.open("rb") as file:
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {end}")


def _is_compressed(file: pathlib.Path) -> bool:
    return bool(_COMPRESSED.search(file.name))


def _expand(pattern: str) -> list[str]:
    """Returns a-{008..010}.tar as three names, with the zeros of the first number."""
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = found.groups()
    numbers = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    return [part for n in numbers for part in _expand(_RANGE.sub(n, pattern, count=1))]
