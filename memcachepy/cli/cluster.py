"""`memcachepy cluster`: several nodes as one cluster, launched and changed by one command."""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from memcachepy.cli._admin import json_option
from memcachepy.cli._cluster import (
    SETTINGS_OF_CONTEXT,
    Progress,
    cluster_options,
    echo_json,
    folder_of,
)
from memcachepy.cli._cluster_changes import (
    add,
    down,
    remove,
    replace,
    restart,
    scale,
    setting_options,
)
from memcachepy.cli._cluster_events import events
from memcachepy.cli._cluster_parameters import parameters
from memcachepy.cli._cluster_status import of_folder, render, status, where, with_answers
from memcachepy.cli.serve import given_settings
from memcachepy.client.hashing import HASHINGS
from memcachepy.cluster.launcher import launch
from memcachepy.cluster.spec import (
    DRAIN_DEFAULT_S,
    DRAIN_MAX_S,
    GRACE_DEFAULT_S,
    GRACE_MAX_S,
    NODES_DEFAULT,
    NODES_MAX,
    declare,
)


@click.group(context_settings=SETTINGS_OF_CONTEXT)
def cluster() -> None:
    """Run several nodes on this machine as one cluster, and change it while it serves.

    Clients ask any node for the list of all of them, as with ElastiCache: any node is the
    configuration endpoint. Each command but `up` asks the cluster that --name names.
    """


def _up(
    file: Path | None,
    name: str | None,
    root: Path | None,
    is_detached: bool,
    as_json: bool,
    extended: tuple[str, ...],
    nodes: int | None,
    hashing: str | None,
    drain: float | None,
    grace: float | None,
    parameter_group: str | None,
    **flags: Any,
) -> int:
    keys = {"name": name, "nodes": nodes, "hashing": hashing, "drain": drain, "grace": grace}
    keys["parameter_group"] = parameter_group
    given = {key: value for key, value in keys.items() if value is not None}
    declaration = declare(given_settings(extended, flags), given, os.environ, file)
    folder = folder_of(declaration.cluster.get("name"), root)
    # On a terminal there is a bar in the place of log lines; elsewhere these say how far it is.
    has_bar = sys.stderr.isatty() and not as_json
    with Progress("cluster up", is_quiet=(not has_bar and not is_detached) or as_json) as progress:

        def say_ready(status: dict[str, Any]) -> None:
            progress.close()
            if not is_detached:
                with suppress(OSError):  # Nobody has to read it.
                    _say_up(with_answers(status), as_json, "Ctrl-C ends it.")

        status = launch(
            folder, declaration, os.environ, progress, say_ready, is_detached, is_terse=has_bar
        )
    if is_detached:
        where = f" --state-dir {shlex.quote(str(root))}" if root else ""
        how_to_end = f"`memcachepy cluster down --name {folder.name}{where}` ends it."
        _say_up(of_folder(folder), as_json, how_to_end)
    return status


def _say_up(found: dict[str, Any], as_json: bool, how_to_end: str) -> None:
    if as_json:
        echo_json(found)
        return
    places = [node["address"] for node in found["nodes"] if node["listed"]]
    listed = ", ".join(f'"{place}"' for place in places)
    click.echo(render(found))
    click.echo("\nfrom pymemcache.client.hash import HashClient")
    click.echo(f"client = HashClient([{listed}])")
    click.echo(f"\n{how_to_end}")


_UP_HELP = """Start a cluster and look after it, in the foreground or with --detach.

Every flag of `memcachepy serve` is for all nodes; ports are counted from -p, or free ones with
-p -1. FILE is TOML: [cluster] has the options of this command without their hyphens, [settings] are
for all nodes, and each [[node]] has settings of its own, and perhaps an id. A node's own beat
flags, which beat the environment, which beats [settings].

The same command again, or one without options, goes on with the cluster as it was, changes by
`scale` and the like included; nodes that still run are taken over as they are. A command that
says something else makes a new cluster in its place.
"""

up = click.Command(
    "up",
    callback=_up,
    help=_UP_HELP,
    params=[
        click.Argument(["file"], metavar="[FILE]", required=False, type=click.Path(path_type=Path)),
        click.Option(
            ["--nodes"],
            metavar="<n>",
            type=click.IntRange(1, NODES_MAX),
            help=f"How many [{NODES_DEFAULT}].",
        ),
        click.Option(
            ["-d", "--detach", "is_detached"],
            is_flag=True,
            help="Return once all nodes serve, and go on in the background.",
        ),
        click.Option(
            ["--hashing"],
            type=click.Choice(HASHINGS),
            help="How clients spread keys, for `where` and for warm changes [rendezvous].",
        ),
        click.Option(
            ["--drain"],
            metavar="<s>",
            type=click.FloatRange(0, DRAIN_MAX_S),
            help="Seconds between leaving the list and the stop of a node "
            f"[{DRAIN_DEFAULT_S:g}].",
        ),
        click.Option(
            ["--grace"],
            metavar="<s>",
            type=click.FloatRange(0, GRACE_MAX_S),
            help="Seconds that a node which does not come back stays in the list "
            f"[{GRACE_DEFAULT_S:g}].",
        ),
        click.Option(
            ["--parameter-group"],
            metavar="<group>",
            help="A group of `cluster parameters`, whose values beat the flags for all nodes.",
        ),
        *setting_options(),
    ],
    context_settings=SETTINGS_OF_CONTEXT,
)

for command in (
    json_option(cluster_options(up)),
    status,
    scale,
    add,
    remove,
    replace,
    restart,
    parameters,
    events,
    where,
    down,
):
    cluster.add_command(command)
