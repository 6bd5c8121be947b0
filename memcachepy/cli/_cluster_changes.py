"""`memcachepy cluster scale`, `add`, `remove`, `replace`, `restart` and `down`."""

import signal
import time
from pathlib import Path
from typing import Any

import click

from memcachepy.cli._admin import json_option, numbers
from memcachepy.cli._cluster import (
    SETTINGS_OF_CONTEXT,
    ask,
    cluster_options,
    connect,
    drain_option,
    echo_json,
    folder_of,
    keep_listed_option,
    warm_options,
)
from memcachepy.cli.serve import extended_option, given_settings, setting_option
from memcachepy.cluster.process import STOP_TIMEOUT_S
from memcachepy.cluster.spec import NODES_MAX, own_settings
from memcachepy.cluster.state import DamagedSpec, StateFolder, send_to_node
from memcachepy.config import SETTINGS
from memcachepy.errors import ClusterError, NoCluster

_LOOK_S = 0.02
nodes_argument = click.argument("nodes_named", metavar="NODE...", nargs=-1, required=True)
LAUNCHERS = ("daemon", "join", "node_id", "discovery_state")
"""Settings that no command of a cluster takes."""


def setting_options() -> list[click.Parameter]:
    """The flags of `serve` that a node of a cluster can have."""
    options: list[click.Parameter] = [
        setting_option(setting)
        for setting in SETTINGS.values()
        if not setting.is_extended and setting.name not in LAUNCHERS
    ]
    return [*options, extended_option("see `memcachepy serve -h`")]


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@click.option(
    "--nodes",
    metavar="<n>",
    type=click.IntRange(1, NODES_MAX),
    required=True,
    help="How many there are to be.",
)
@cluster_options
@drain_option
@warm_options
@json_option
def scale(
    nodes: int,
    name: str | None,
    root: Path | None,
    drain_s: float | None,
    warm: bool,
    settle_s: float | None,
    as_json: bool,
) -> None:
    """Have more nodes or fewer.

    New ones join the list when they serve; the ones with the highest ids leave it, and stop
    --drain seconds later.
    """
    arguments = {"nodes": nodes, "drain_s": drain_s, "warm": warm, "settle_s": settle_s}
    answer = ask(folder_of(name, root), "scale", arguments, as_json)
    _say(answer, as_json, f"{counted(answer['before'])} before")


def _add(
    name: str | None,
    root: Path | None,
    warm: bool,
    settle_s: float | None,
    as_json: bool,
    extended: tuple[str, ...],
    **flags: Any,
) -> None:
    given = own_settings(given_settings(extended, flags))
    arguments = {"settings": given, "warm": warm, "settle_s": settle_s}
    answer = ask(folder_of(name, root), "add", arguments, as_json)
    _say(answer, as_json, f"node {', '.join(answer['added'])} added")


add = json_option(
    warm_options(
        cluster_options(
            click.Command(
                "add",
                callback=_add,
                help="Start one more node, perhaps with settings of its own; it joins the list "
                "when it serves.",
                params=setting_options(),
                context_settings=SETTINGS_OF_CONTEXT,
            )
        )
    )
)


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@nodes_argument
@cluster_options
@drain_option
@warm_options
@json_option
def remove(
    nodes_named: tuple[str, ...],
    name: str | None,
    root: Path | None,
    drain_s: float | None,
    warm: bool,
    settle_s: float | None,
    as_json: bool,
) -> None:
    """Take nodes out of the list, and stop them --drain seconds later.

    NODE is an id, as in 0002 or 2, or an address, as in 127.0.0.1:11212.
    """
    arguments = {"nodes_named": nodes_named, "drain_s": drain_s, "warm": warm, "settle_s": settle_s}
    answer = ask(folder_of(name, root), "remove", arguments, as_json)
    _say(answer, as_json, f"node {', '.join(answer['removed'])} removed")


def _replace(
    nodes_named: tuple[str, ...],
    name: str | None,
    root: Path | None,
    drain_s: float | None,
    keep_listed: bool,
    as_json: bool,
    extended: tuple[str, ...],
    **flags: Any,
) -> None:
    arguments = {
        "nodes_named": nodes_named,
        "drain_s": drain_s,
        "keep_listed": keep_listed,
        "settings": own_settings(given_settings(extended, flags)),
    }
    answer = ask(folder_of(name, root), "replace", arguments, as_json)
    _say(answer, as_json, f"node {', '.join(answer['replaced'])} replaced")


replace = nodes_argument(
    json_option(
        keep_listed_option(
            drain_option(
                cluster_options(
                    click.Command(
                        "replace",
                        callback=_replace,
                        help="Put a new, empty node in the place of another: same id and, unless "
                        "flags say otherwise, same address and settings.",
                        params=setting_options(),
                        context_settings=SETTINGS_OF_CONTEXT,
                    )
                )
            )
        )
    )
)


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@click.argument("nodes_named", metavar="[NODE...]", nargs=-1)
@click.option(
    "--rolling/--at-once",
    "is_rolling",
    default=True,
    help="One after the other, each healthy before the next [the default]; or all in one moment, "
    "in which the whole cluster is away.",
)
@cluster_options
@drain_option
@keep_listed_option
@json_option
def restart(
    nodes_named: tuple[str, ...],
    is_rolling: bool,
    name: str | None,
    root: Path | None,
    drain_s: float | None,
    keep_listed: bool,
    as_json: bool,
) -> None:
    """Restart nodes, all of them unless some are named; each is empty afterwards."""
    arguments = {
        "nodes_named": nodes_named,
        "is_rolling": is_rolling,
        "drain_s": drain_s,
        "keep_listed": keep_listed,
    }
    answer = ask(folder_of(name, root), "restart", arguments, as_json)
    _say(answer, as_json, f"node {', '.join(answer['restarted'])} restarted")


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@cluster_options
@json_option
def down(name: str | None, root: Path | None, as_json: bool) -> None:
    """Stop all nodes and the supervisor, and forget the cluster's settings.

    Works without a supervisor, too. The list stays as it was: clients that know it get misses. Its
    version goes on growing should a cluster of this name come up again.
    """
    folder = folder_of(name, root)
    try:
        connect(folder).close()
    except NoCluster:
        if not _end_orphans(folder):
            raise
    else:
        ask(folder, "down", {}, as_json)
        _wait_until_let_go(folder)
    if running := folder.running_nodes():
        pids = ", ".join(f"{node_id} (process {pid})" for node_id, pid in sorted(running.items()))
        raise ClusterError(f"cluster {folder.name} is not down: nodes still run: {pids}")
    if as_json:
        echo_json({"name": folder.name, "is_down": True})
    else:
        click.echo(f"cluster {folder.name} is down")


def _wait_until_let_go(folder: StateFolder) -> None:
    """The supervisor says that all is down a moment before it has ended."""
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while folder.supervisor_pid():
        if time.monotonic() > deadline_s:
            raise ClusterError(f"the supervisor of cluster {folder.name} does not end")
        time.sleep(_LOOK_S)


def _end_orphans(folder: StateFolder) -> bool:
    """End nodes whose supervisor is gone; false if nothing is left of the cluster."""
    if not folder.path.exists() and not folder.running_nodes():
        return False  # And no folder of a name that was mistyped.
    with folder.held():
        try:
            had_spec = folder.read_spec() is not None
        except DamagedSpec:
            had_spec = True
        running = folder.running_nodes()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for node_id, pid in folder.running_nodes().items():
                send_to_node(folder, node_id, pid, number)
            deadline_s = time.monotonic() + STOP_TIMEOUT_S
            while folder.running_nodes() and time.monotonic() < deadline_s:
                time.sleep(_LOOK_S)
        folder.forget_spec()
    return had_spec or bool(running)


def counted(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def _say(answer: dict[str, Any], as_json: bool, what: str) -> None:
    if as_json:
        echo_json(answer)
        return
    if warm := answer.get("warm"):
        what += f"; {numbers(warm['copied'])} items copied, {numbers(warm['hidden'])} of them void"
        if "error" in warm:
            click.echo(f"The copies are misses: {warm['error']}", err=True)
    nodes = counted(answer["nodes"])
    click.echo(f"{what}; {nodes}, the list has version {answer['version']}")
