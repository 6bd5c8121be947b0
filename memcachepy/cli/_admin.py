"""What the commands that talk to running nodes have in common."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from memcachepy.admin.client import Address, key_of_argument
from memcachepy.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])

Progress = Callable[[int, int], None]


def address_of(_ctx: click.Context, _param: click.Parameter, text: str) -> Address:
    try:
        return Address.parse(text)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def bytes_of(_ctx: click.Context, _param: click.Parameter, text: str) -> bytes:
    return key_of_argument(text)


server_option = click.option(
    "--server",
    "address",
    metavar="<host:port|path>",
    default="127.0.0.1:11211",
    show_default=True,
    callback=address_of,
    help="A memcached or a node; what has a slash is a UNIX socket.",
)
file_argument = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
prefix_option = click.option(
    "--prefix", metavar="<text>", default="", callback=bytes_of, help="Only keys that begin so."
)
json_option = click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    metavar="<s>",
    type=click.FloatRange(0.1),
    default=30.0,
    show_default=True,
    help="Seconds that the server may be silent.",
)
progress_option = click.option(
    "--progress/--no-progress",
    "progress",
    default=None,
    help="A progress bar on stderr [only on a terminal]",
)


@contextmanager
def progress_bar(label: str, wanted: bool | None) -> Iterator[Progress]:
    """A function that takes what is done and what there is."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda _done, _all: None
        return
    with click.progressbar(length=1, label=label, file=sys.stderr, update_min_steps=1) as bar:

        def show(done: int, total: int) -> None:
            bar.length = max(total, 1)
            bar.update(done - bar.pos)

        yield show


def numbers(value: int) -> str:
    return f"{value:,}"


def megabytes(value: int) -> str:
    return f"{value / (1 << 20):,.1f} MiB"
