"""The operation behind `cluster parameters apply`, in the loop of the cluster's supervisor.

The spec gets the group's values first: a supervisor that is killed after that leaves nodes that
get them when they start next, and whoever applies the group again finds what is still to be done.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memcachepy.cluster.applying import Change, When, apply_running, waiting_changes, with_group
from memcachepy.cluster.control import Operation, Step, Tell
from memcachepy.cluster.events import EventName
from memcachepy.cluster.groups import Groups
from memcachepy.cluster.node import Node
from memcachepy.cluster.supervisor import ClusterSupervisor
from memcachepy.errors import MemcachepyError


async def apply_group(
    cluster: ClusterSupervisor,
    nodes: Sequence[Node],
    restart: Operation,
    request: Mapping[str, Any],
    tell: Tell,
) -> dict[str, object]:
    """Give the nodes a group's values: at once what can be, the rest with a restart.

    Args:
        cluster: whose nodes they are.
        nodes: those that stay.
        restart: the operation for nodes that need it, one after the other.
        request: `group`; with `is_dry` it is only said what that would change; without
            `is_restarting` the rest waits for whatever starts a node next.
        tell: how far it is.

    Raises:
        ClusterError: there is no such group.
        ConfigError: its values do not fit a node.
    """
    folder = cluster.folder
    group = Groups(folder.path.parent).read(str(request.get("group")))
    spec = with_group(cluster.spec, group)
    changes = waiting_changes(folder, spec)
    answer: dict[str, object] = {
        "group": group.name,
        "changes": [change.as_dict() for change in changes],
    }
    if request.get("is_dry"):
        return answer
    cluster.commit(spec)
    for node in nodes:
        wanted = spec.node(node.node_id)
        assert wanted is not None
        node.configure(wanted, spec.settings_of(wanted), spec.config_of(wanted))
    trouble = await _change_running(cluster, changes, tell)
    waiting = _ids_waiting(waiting_changes(folder, spec))
    restarted: list[str] = []
    if request.get("is_restarting") and waiting:
        await restart({**request, "nodes_named": waiting, "is_rolling": True}, tell)
        restarted, waiting = waiting, _ids_waiting(waiting_changes(folder, spec))
    names = ", ".join(dict.fromkeys(change.setting for change in changes)) or "nothing new"
    cluster.note(EventName.PARAMETERS_CHANGED, message=f"group {group.name}: {names}")
    return answer | {"restarted": restarted, "waiting": waiting, "trouble": trouble}


async def _change_running(
    cluster: ClusterSupervisor, changes: Iterable[Change], tell: Tell
) -> list[str]:
    """What can be changed on running nodes; returns sentences about what was not."""
    by_node: dict[str, list[Change]] = {}
    for change in changes:
        for node_id in change.node_ids if change.when is When.NOW else ():
            by_node.setdefault(node_id, []).append(change)
    trouble: list[str] = []
    for done, (node_id, some) in enumerate(sorted(by_node.items()), 1):
        node = cluster.nodes[node_id]
        if not node.is_alive:
            continue  # It gets them when it starts.
        try:
            trouble += await asyncio.to_thread(
                apply_running, cluster.folder, node_id, node.probe_address, some
            )
        except MemcachepyError as error:
            trouble.append(str(error))
            continue
        tell(Step(f"node {node.name} changed", done, len(by_node)))
    return trouble


def _ids_waiting(changes: Iterable[Change]) -> list[str]:
    """Nodes that need a restart; what has no effect needs none."""
    needing = (change for change in changes if change.when is not When.NOTHING)
    return sorted({node_id for change in needing for node_id in change.node_ids})
