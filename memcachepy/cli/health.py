"""`memcachepy health`: whether a node serves, for probes and people.

Probes run it every few seconds, so it imports little.
"""

import json
import os
from collections.abc import Mapping

import click

from memcachepy.admin.client import Address
from memcachepy.cli._admin import json_option
from memcachepy.cluster.health import TIMEOUT_S, check

EXIT_UNHEALTHY = 1

_WHERE_VARIABLES = frozenset(
    {
        "MEMCACHEPY_CONFIG",
        "MEMCACHEPY_LISTEN",
        "MEMCACHEPY_PORT",
        "MEMCACHEPY_UNIX_SOCKET",
    }
)
"""Without any of them a node serves at the default place."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("server", metavar="[HOST:PORT]", default="")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="<s>",
    type=click.FloatRange(0.01, 3600),
    default=TIMEOUT_S,
    show_default=True,
    help="Seconds for all of it.",
)
@json_option
def health(server: str, timeout_s: float, as_json: bool) -> int:
    """Say whether a node serves: it stores an item and returns it.

    The exit status is 0 when it is healthy, 1 when it is not.

    A server is HOST:PORT, HOST or the path of a UNIX socket, which has a slash. Without one it is
    where `memcachepy serve` would serve with the same environment and configuration file:
    127.0.0.1:11211 if they say nothing.

    A node that has no room or no connection to spare is healthy: it does its work, and a restart
    would empty it. The item is memcachepy:health; nodes leave it out of their hit counters.
    """
    address = Address.parse(server) if server else address_here(os.environ)
    found = check(address, timeout_s)
    if as_json:
        told = {
            "address": str(address),
            "healthy": found.is_healthy,
            "reason": found.reason,
            "took_s": round(found.took_s, 6),
        }
        click.echo(json.dumps(told))
    else:
        state = "healthy" if found.is_healthy else "not healthy"
        click.echo(f"{address} is {state}: {found.reason}")
    return 0 if found.is_healthy else EXIT_UNHEALTHY


def address_here(environ: Mapping[str, str]) -> Address:
    """Where a node that was started with this environment, and no flags, is reached from here.

    Raises:
        ConfigError: such a node would not start.
    """
    if not _WHERE_VARIABLES & environ.keys():
        return Address.parse("")
    from memcachepy.config import resolve  # As slow as all else here together.

    config, _ = resolve({}, environ)
    for place in config.listen:
        port = config.port if place.port is None else place.port
        if port > 0:
            host = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.host)
            return Address(host or place.host, port)
    if config.unix_socket:
        return Address("", 0, config.unix_socket)
    return Address.parse("")
