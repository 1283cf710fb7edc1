"""Files and folders that are there whole or not at all."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file or a folder to, which then takes the place of `path`. After an error it is
    gone. Its name is its own, since another process may be writing the same. Raises OSError."""
    path = Path(os.path.abspath(path))  # "." has a name then
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{secrets.token_hex(4)}.writing")
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        if scratch.is_dir():
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)


def write(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, text as UTF-8, and makes its folder. Raises OSError."""
    with replacing(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write in, which becomes `folder` if all goes well and is gone if not. Raises OSError, as for a
    folder that is there with something in it."""
    with replacing(folder) as scratch:
        scratch.mkdir()
        yield scratch
