"""`memcachepy tool`: the views of memcached-tool."""

import json
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import click

from memcachepy.admin import views
from memcachepy.admin.client import Address, Listed, NodeConnection
from memcachepy.cli._admin import address_of, json_option, prefix_option, timeout_option

MODES = ("display", "stats", "settings", "sizes", "dump", "keys")


def _parse(
    ctx: click.Context, param: click.Parameter, words: Sequence[str]
) -> tuple[str, Address, int | None]:
    """Mode, address and limit: mode and address in either order, as memcached-tool has it."""
    rest = list(words)
    mode, address = "display", "127.0.0.1:11211"
    if rest and rest[0] in MODES:
        mode = rest.pop(0)
        if rest and not rest[0].isdecimal():
            address = rest.pop(0)
    elif rest:
        address = rest.pop(0)
        if rest:
            mode = rest.pop(0)
    if mode not in MODES:
        raise click.BadParameter(f"{mode} is not one of {', '.join(MODES)}")
    limit = None
    if rest and mode in ("dump", "keys"):
        text = rest.pop(0)
        if not text.isdecimal() or int(text) < 1:
            raise click.BadParameter(f"{text} is no limit: it must be a number above 0")
        limit = int(text)
    if rest:
        raise click.BadParameter(f"{rest[0]} is too much")
    return mode, address_of(ctx, param, address), limit


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A server is HOST, HOST:PORT or the path of a UNIX socket [127.0.0.1:11211].",
)
@click.argument("words", nargs=-1, callback=_parse, metavar="[SERVER] [MODE] [LIMIT]")
@prefix_option
@json_option
@timeout_option
def tool(
    words: tuple[str, Address, int | None], prefix: bytes, as_json: bool, timeout_s: float
) -> None:
    """Show what a server holds, in memcached-tool's columns.

    MODE is display (slab classes, the default), stats, settings, sizes, keys (what `lru_crawler
    metadump` lists; with --prefix as a table of time to live, size and key) or dump (an `add`
    command for each item). LIMIT is for keys and dump. MODE and SERVER may change places.
    """
    mode, address, limit = words
    if prefix and mode not in ("keys", "dump"):
        raise click.UsageError("--prefix is for keys and dump")
    with NodeConnection(address, timeout_s) as connection:
        if mode == "keys":
            _keys(connection, prefix, limit, as_json)
        elif mode == "dump":
            _dump(connection, timeout_s, prefix, limit, as_json)
        elif mode == "display":
            slabs = views.slabs(connection)
            _print(slabs, views.render_slabs(slabs), as_json)
        elif mode == "stats":
            stats = connection.stats()
            _print(stats, views.render_stats(address, stats), as_json)
        elif mode == "settings":
            settings = connection.stats("settings")
            _print(settings, views.render_settings(address, settings), as_json)
        else:
            sizes = connection.stats("sizes")
            _print(sizes, views.render_sizes(address, sizes), as_json)


def _print(data: object, text: str, as_json: bool) -> None:
    click.echo(json.dumps(data, indent=2) if as_json else text)


def _keys(connection: NodeConnection, prefix: bytes, limit: int | None, as_json: bool) -> None:
    if prefix and not as_json:
        click.echo(views.LISTED_HEADING)
    for line, item in views.listed(connection, prefix, limit):
        if as_json:
            click.echo(json.dumps(_json_of(item)))
        elif prefix:
            click.echo(views.render_listed(item, time.time()))
        else:
            click.echo(line.rstrip())


def _json_of(item: Listed) -> dict[str, Any]:
    """An object on a line of its own: there may be millions."""
    return {
        "key": views.key_text(item),
        "key_base64": b64encode(item.key).decode(),
        "expire_at_s": item.expire_at_s,
        "size_bytes": item.size_bytes,
        "class_id": item.class_id,
        "fetched": item.fields.get("fetch") == "yes",
    }


def _dump(
    connection: NodeConnection, timeout_s: float, prefix: bytes, limit: int | None, as_json: bool
) -> None:
    if as_json:
        raise click.UsageError("dump writes commands, not JSON: memcachepy dump keeps more")
    items = [item for _, item in views.listed(connection, prefix, limit)]
    out = sys.stdout.buffer
    # A connection of its own: with a limit, the list on the other one goes on.
    with NodeConnection(connection.address, timeout_s) as fetching:
        for _, command in views.add_commands(fetching, items):
            out.write(command)
    out.flush()
