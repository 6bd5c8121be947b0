"""A small file that is never seen, or left behind by a kill, half written."""

import os
from pathlib import Path

from memcachepy.errors import MemcachepyError


def replace_file(path: Path, data: bytes, failure: type[MemcachepyError]) -> None:
    """Readers see the old file or the new one; one writer at a time.

    Args:
        path: of the file; its folder must be there.
        data: all that it is to hold.
        failure: raised, with a sentence, if it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise failure(f"{path} cannot be written: {error.strerror}") from None
