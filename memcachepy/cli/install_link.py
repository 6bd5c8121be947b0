"""`memcachepy install-link`: a link named memcached, for whom expects that name."""

import sys
import sysconfig
from pathlib import Path

import click

from memcachepy.cli.memcached import NAME
from memcachepy.errors import MemcachepyError


class LinkRefused(MemcachepyError):
    """There is something in the way that is not ours, or the link cannot be made."""


@click.command("install-link")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def install_link(folder: Path) -> None:
    """Make DIR/memcached a link to this program.

    Called by that name it takes memcached's command line, with memcached's defaults.
    """
    program = _own_program()
    link = folder / NAME
    try:
        if link.is_symlink() and link.resolve() == program:
            click.echo(f"{link} is there already")
            return
        if link.is_symlink() and link.readlink().name == program.name:
            link.unlink()  # Of another installation, or of one that is gone.
        link.symlink_to(program)
    except FileExistsError:
        raise LinkRefused(
            f"{link} is there already and is not a link of ours: remove it, or choose another "
            "directory (Debian: dpkg-divert --rename it first)"
        ) from None
    except OSError as error:
        raise LinkRefused(f"{link} cannot be made: {error.strerror}") from None
    click.echo(f"{link} -> {program}")


def _own_program() -> Path:
    """The installed script `memcachepy`.

    Raises:
        LinkRefused: there is none, as with a source tree that was not installed.
    """
    called = Path(sys.argv[0])
    for place in (called, Path(sysconfig.get_path("scripts"), "memcachepy")):
        if place.name == "memcachepy" and place.is_file():
            return place.resolve()
    raise LinkRefused("the script memcachepy is not installed: pip install it first")
