"""`memcachepy cluster status` and `where`: what a cluster is like, and where its keys are."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from memcachepy.admin.client import Address, key_of_argument
from memcachepy.cli._admin import address_of, json_option, numbers
from memcachepy.cli._cluster import (
    SETTINGS_OF_CONTEXT,
    cluster_options,
    connect,
    duration_text,
    echo_json,
    folder_of,
    table_text,
)
from memcachepy.client.hashing import HASHINGS, Key, ring
from memcachepy.cluster.asking import Asked, ask_for_list, ask_members
from memcachepy.cluster.node import probe_address_of, speaks_text
from memcachepy.cluster.state import StateFolder
from memcachepy.errors import ClusterError, MembershipError, MemcachepyError, NoCluster
from memcachepy.membership import open_membership
from memcachepy.membership.file import read_topology
from memcachepy.topology import Member, Topology

EXIT_NOT_ALL_SERVE = 1
_SUPERVISOR_TIMEOUT_S = 5.0
_HEADING = (
    "NODE",
    "ADDRESS",
    "STATE",
    "LISTED",
    "UP",
    "MEMORY",
    "ITEMS",
    "CONNECTIONS",
    "HITS",
    "EVICTIONS",
    "RESTARTS",
)

provider_option = click.option(
    "--provider",
    metavar="<url>",
    help="Any cluster by where its list is kept, from any host: file:PATH, dns+NAME:PORT, "
    "dnssrv+NAME or zk://HOST:PORT,.../PATH.",
)
endpoint_option = click.option(
    "--endpoint",
    metavar="<host:port>",
    callback=lambda ctx, param, text: text and address_of(ctx, param, text),
    help="Any cluster by one of its nodes, from any host: by what that one tells clients.",
)


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@cluster_options
@provider_option
@endpoint_option
@click.option("--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    metavar="<s>",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Between two looks of --watch.",
)
@json_option
def status(
    name: str | None,
    root: Path | None,
    provider: str | None,
    endpoint: Address | None,
    watch: bool,
    interval_s: float,
    as_json: bool,
) -> int:
    """Show a cluster and its nodes.

    The exit status is 0 if all of them serve, 1 if not, and 69 if there is no such cluster. With
    --watch and --json there is an object on each line.
    """

    def look() -> dict[str, Any]:
        if provider or endpoint:
            return _of_list(provider, endpoint)
        return of_folder(folder_of(name, root))

    found = look()
    if watch:
        _watch(found, look, interval_s, as_json)
    elif as_json:
        echo_json(found)
    else:
        click.echo(render(found))
    serving = [node for node in found["nodes"] if node["state"] == "serving"]
    return 0 if len(serving) == len(found["nodes"]) else EXIT_NOT_ALL_SERVE


def _watch(
    found: dict[str, Any], look: Callable[[], dict[str, Any]], interval_s: float, as_json: bool
) -> NoReturn:
    """Until Ctrl-C; a cluster that goes away is waited for."""
    while True:
        if as_json:
            click.echo(json.dumps(found))
        else:
            click.clear()
            click.echo(found.get("error") or render(found))
        time.sleep(interval_s)
        try:
            found = look()
        except MemcachepyError as error:
            found = {"error": str(error)}


def of_folder(folder: StateFolder) -> dict[str, Any]:
    """As its supervisor tells it, or as far as it can be seen without one."""
    try:
        connection = connect(folder, _SUPERVISOR_TIMEOUT_S)
        try:
            found = connection.ask("status")
        finally:
            connection.close()
    except NoCluster:
        seen = _without_supervisor(folder)
        if seen is None:
            raise
        found = seen
    return with_answers(found)


def with_answers(found: dict[str, Any]) -> dict[str, Any]:
    """What a supervisor tells, with what the nodes say themselves."""
    topology = Topology.from_dict(found["topology"])
    own = {node["node_id"]: node for node in found["nodes"]}
    for member in topology.members:
        if member.node_id not in own:
            row = {"node_id": member.node_id, "address": member.address, "state": "foreign"}
            found["nodes"].append(row)
    # Those that speak only the binary protocol are not asked: the supervisor's word is taken.
    asking = [node for node in found["nodes"] if node.get("speaks_text", True)]
    answers = iter(ask_members([_member_of(node) for node in asking]))
    asked = [
        next(answers) if node.get("speaks_text", True) else Asked(_member_of(node))
        for node in found["nodes"]
    ]
    _add_answers(found, asked, topology)
    return found


def _without_supervisor(folder: StateFolder) -> dict[str, Any] | None:
    """None if nothing of it runs."""
    running = folder.running_nodes()
    spec = folder.read_spec()
    if spec is None or not running:
        return None
    topology = read_topology(folder.topology_path) or Topology(0)
    nodes = []
    for node in spec.nodes:
        member = topology.member(node.node_id)
        address = member.address if member else f"127.0.0.1:{node.port}"
        pid = running.get(node.node_id, 0)
        config = spec.config_of(node)
        nodes.append(
            {
                "node_id": node.node_id,
                "address": address,
                "probe_address": list(probe_address_of(config)),
                "speaks_text": speaks_text(config),
                "state": "serving" if pid else "down",
                "pid": pid,
            }
        )
    pid = folder.supervisor_pid()
    trouble = (
        f"its supervisor, process {pid}, does not answer"
        if pid
        else "its supervisor does not run: nobody restarts nodes; `memcachepy cluster up "
        f"--name {spec.name}` takes them over"
    )
    return {
        "name": spec.name,
        "pid": pid,
        "is_ready": True,
        "change": "",
        "state_folder": str(folder.path),
        "trouble": trouble,
        "hashing": spec.hashing,
        "topology": topology.as_dict(),
        "nodes": nodes,
    }


def _of_list(provider: str | None, endpoint: Address | None) -> dict[str, Any]:
    topology = _told_list(provider, endpoint)
    asked = ask_members(topology.members)
    nodes = [
        {
            "node_id": answer.member.node_id or answer.discovery.get("node_id", ""),
            "address": answer.member.address,
            "state": "silent" if answer.error else "serving",
            "trouble": answer.error,
        }
        for answer in asked
    ]
    found = {
        "provider": provider or str(endpoint),
        "topology": topology.as_dict(),
        "nodes": nodes,
    }
    _add_answers(found, asked, topology)
    return found


def _told_list(provider: str | None, endpoint: Address | None) -> Topology:
    if provider and endpoint:
        raise click.UsageError("--provider and --endpoint both say which cluster: give one")
    if endpoint:
        return ask_for_list(endpoint)
    assert provider
    with open_membership(provider) as membership:
        topology = membership.topology()
    if topology is None:
        raise MembershipError(f"{provider} has no list of nodes")
    return topology


def _add_answers(found: dict[str, Any], asked: Sequence[Asked], topology: Topology) -> None:
    places = {member.address for member in topology.members}
    for node, answer in zip(found["nodes"], asked, strict=True):
        node["listed"] = node["address"] in places
        node["answers"] = not answer.error and (bool(answer.stats) or node["state"] == "serving")
        node["stats"] = answer.stats
        if answer.error and node.get("state") == "serving":
            node["state"] = "silent"
            node["trouble"] = answer.error
        node["hit_ratio"] = answer.hit_ratio
        node["discovery"] = answer.discovery
        if not node.get("trouble"):
            node["trouble"] = _trouble_with_list(answer, topology)


def _trouble_with_list(answer: Asked, topology: Topology) -> str:
    """Why its clients may not know what the list says."""
    discovery = answer.discovery
    if discovery.get("state") == "last_known":
        return (
            f"serves the last list it knows, of version {discovery.get('version')}: "
            f"{discovery.get('provider')} does not answer"
        )
    if discovery and discovery.get("version") != str(topology.version):
        return f"serves a list of version {discovery.get('version')}"
    return ""


def _member_of(node: Mapping[str, Any]) -> Member:
    """Where to ask it: what it tells clients need not be reachable from here."""
    if "probe_address" in node:
        host, port = node["probe_address"]
        return Member(host, port, node_id=str(node["node_id"]))
    host, _, port = str(node["address"]).rpartition(":")
    return Member(host.strip("[]"), int(port), node_id=str(node["node_id"]))


def render(found: Mapping[str, Any]) -> str:
    """The table, with a line above it."""
    nodes = found["nodes"]
    serving = sum(node["state"] == "serving" for node in nodes)
    listed = [node for node in nodes if node["listed"]]
    who = f"cluster {found['name']}" if "name" in found else found["provider"]
    head = f"{who}: {serving} of {len(nodes)} nodes serve, {len(listed)} in the list"
    head += f" of version {found['topology']['version']}"
    lines = [head]
    if listed:
        lines.append(f"configuration endpoint: {listed[0]['address']} (any node in the list)")
    if not found.get("is_ready", True):
        lines.append("coming up")
    if found.get("parameter_group"):
        lines.append(f"parameter group: {found['parameter_group']}")
    if found.get("change"):
        lines.append(f"being changed: {found['change']}")
    if found.get("trouble"):
        lines.append(str(found["trouble"]))
    lines += [table_text(_HEADING, [_row(node) for node in nodes])]
    lines += [
        f"node {node['node_id'] or node['address']}: {node['trouble']}"
        for node in nodes
        if node.get("trouble")
    ]
    return "\n".join(lines)


def _row(node: Mapping[str, Any]) -> tuple[str, ...]:
    stats = node["stats"]

    def count(name: str) -> str:
        return numbers(int(stats[name])) if stats.get(name, "").isdecimal() else "-"

    memory = "-"
    with suppress(KeyError, ValueError):
        used, limit = int(stats["bytes"]), int(stats["limit_maxbytes"])
        memory = f"{used / (1 << 20):.1f}/{limit >> 20} MiB"
    ratio = node["hit_ratio"]
    return (
        node["node_id"] or "-",
        node["address"],
        node["state"],
        "yes" if node["listed"] else "no",
        duration_text(int(stats["uptime"])) if stats.get("uptime", "").isdecimal() else "-",
        memory,
        count("curr_items"),
        count("curr_connections"),
        "-" if ratio is None else f"{ratio:.1%}",
        count("evictions"),
        str(node.get("restarts", "-")),
    )


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@click.argument("key", metavar="KEY")
@cluster_options
@provider_option
@endpoint_option
@json_option
def where(
    key: str,
    name: str | None,
    root: Path | None,
    provider: str | None,
    endpoint: Address | None,
    as_json: bool,
) -> None:
    """Say which node has KEY, under each way in which clients spread keys."""
    used = ""
    if provider or endpoint:
        topology = _told_list(provider, endpoint)
    else:
        folder = folder_of(name, root)
        spec = folder.read_spec()
        if spec is None:
            connect(folder).close()
            raise ClusterError(f"cluster {folder.name} has no settings in {folder.path}")
        topology, used = read_topology(folder.topology_path) or Topology(0), spec.hashing
    if not topology.members:
        raise ClusterError("the list has no nodes")
    found = {way: ring(topology.members, way).node_of(_key_of(key)) for way in HASHINGS}
    if as_json:
        nodes = {way: member.as_dict() for way, member in found.items()}
        echo_json({"key": key, "version": topology.version, "used": used, "nodes": nodes})
        return
    rows = [
        (way, member.node_id or "-", member.address, "this cluster's" if way == used else "")
        for way, member in found.items()
    ]
    click.echo(table_text(("HASHING", "NODE", "ADDRESS", ""), rows))


def _key_of(text: str) -> Key:
    """Text for a client that is given text; `pymemcache` tells it from bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return key_of_argument(text)
    return text
