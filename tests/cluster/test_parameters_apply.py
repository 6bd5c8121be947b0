"""A cluster that gets a parameter group, in real processes, by the command."""

import json
import os
import signal
from typing import Any

import pytest
from clusters import PATIENCE_S, SMALL, Cluster
from support.client import RawClient
from support.waiting import wait_until

pytestmark = pytest.mark.once

MEMORY = 12 << 20


def parameters(cluster: Cluster, command: str, *words: str) -> Any:
    """What it says as JSON; it must succeed."""
    done = cluster.run(f"parameters {command}", *words, "--json")
    assert done.returncode == 0, done.stderr + cluster.log()
    return json.loads(done.stdout)


def setting(cluster: Cluster, node_id: str, name: str) -> str:
    """As the node itself tells it."""
    with RawClient(cluster.address(node_id)) as client:
        return client.stats("settings")[name]


def settings(cluster: Cluster, name: str) -> list[str]:
    return [setting(cluster, node_id, name) for node_id in cluster.ids]


def watches(address: tuple[str, int]) -> bool:
    with RawClient(address) as client:
        client.send(b"watch\r\n")
        return client.line() == b"OK"


def test_a_group_is_applied_at_once_where_that_can_be_and_with_a_restart_else(
    cluster: Cluster,
) -> None:
    cluster.up(*SMALL, "--nodes", "2", "--drain", "0")
    pids = cluster.node_pids()
    parameters(cluster, "create", "web", "--description", "for the shop")
    parameters(cluster, "set", "web", "cache_memlimit=12", "idle_timeout=600", "lru_crawler=0")
    parameters(cluster, "set", "web", "watch=disabled", "lru_crawler_metadump=disabled")

    dry = parameters(cluster, "apply", "web", "--dry-run")
    whens = {change["setting"]: change["when"] for change in dry["changes"]}
    assert whens.pop("idle_timeout") == "restart"
    now = {"memory_limit", "lru_crawler", "disable_watch", "disable_dumping"}
    assert whens == dict.fromkeys(now, "now")
    assert settings(cluster, "maxbytes") == [str(8 << 20)] * 2

    done = parameters(cluster, "apply", "web")
    assert (done["waiting"], done["restarted"]) == (["0001", "0002"], [])
    assert settings(cluster, "maxbytes") == [str(MEMORY)] * 2
    assert settings(cluster, "lru_crawler") == ["no"] * 2
    assert settings(cluster, "dump_enabled") == ["no"] * 2
    assert [watches(cluster.address(node_id)) for node_id in cluster.ids] == [False] * 2
    assert settings(cluster, "idle_timeout") == ["0"] * 2
    assert cluster.node_pids() == pids
    shown = parameters(cluster, "show")
    assert shown["name"] == "web"
    assert [change["setting"] for change in shown["waiting"]] == ["idle_timeout"]
    groups = {group["name"]: group["clusters"] for group in parameters(cluster, "list")}
    assert groups["web"] == ["main"]
    assert "is the group of main" in cluster.refused("parameters delete", "web")

    done = parameters(cluster, "apply", "web", "--now")
    assert (done["waiting"], done["restarted"]) == ([], ["0001", "0002"])
    assert settings(cluster, "idle_timeout") == ["600"] * 2
    assert settings(cluster, "maxbytes") == [str(MEMORY)] * 2
    assert not set(cluster.node_pids().values()) & set(pids.values())
    shown = parameters(cluster, "show")
    assert (shown["waiting"], shown["is_applied"]) == ([], True)
    parameters(cluster, "set", "web", "idle_timeout=601")
    assert parameters(cluster, "show")["is_applied"] is False
    assert "Changed since main got it" in cluster.run("parameters show").stdout
    names = [
        json.loads(line)["name"]
        for line in cluster.run("events", "--json").stdout.split("\n")
        if line
    ]
    assert names.count("CacheClusterParametersChanged") == 2
    assert names.count("CacheNodesRebooted") == 1

    # Back to what `cluster up` said: all of it with the next start, whoever restarts the node.
    done = parameters(cluster, "apply", "default.memcached1.6")
    assert done["waiting"] == ["0001", "0002"]
    assert settings(cluster, "maxbytes") == [str(8 << 20)] * 2
    os.kill(cluster.node_pids()["0002"], signal.SIGKILL)
    wait_until(
        lambda: parameters(cluster, "show")["waiting"][0]["node_ids"] == ["0001"],
        "the node to start with its new settings",
        PATIENCE_S,
    )


def test_a_group_that_is_not_there_or_does_not_fit_changes_nothing(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    parameters(cluster, "create", "large")
    parameters(cluster, "set", "large", "max_item_size=16777216")
    assert "did you mean large?" in cluster.refused("parameters apply", "larg")
    assert "half of memory_limit" in cluster.refused("parameters apply", "large", "--now")
    assert cluster.status()["parameter_group"] == ""
    refused = cluster.refused("parameters set", "large", "max_itm_size=1", status=64)
    assert "did you mean max_item_size?" in refused
    assert "cannot be changed" in cluster.refused(
        "parameters set", "default.memcached1.6", "idle_timeout=1"
    )


def test_a_cluster_can_have_a_group_from_its_start_on(cluster: Cluster) -> None:
    assert "no parameter group web" in cluster.refused("up", *SMALL, "--parameter-group", "web")
    parameters(cluster, "create", "web")
    parameters(cluster, "set", "web", "idle_timeout=77", "max_cache_memory=12")
    cluster.up(*SMALL, "--nodes", "1", "--parameter-group", "web", "--drain", "0")
    assert (settings(cluster, "idle_timeout"), settings(cluster, "maxbytes")) == (
        ["77"],
        [str(MEMORY)],
    )
    assert cluster.status()["parameter_group"] == "web"
    assert "parameter group: web\n" in cluster.run("status").stdout
    # A node that comes later has it, too.
    cluster.do("add")
    assert settings(cluster, "idle_timeout") == ["77", "77"]


def test_without_a_cluster_groups_can_be_changed_but_not_applied(cluster: Cluster) -> None:
    parameters(cluster, "create", "web", "--family", "memcached1.4")
    parameters(cluster, "set", "web", "modern=0", "idle_timeout=5")
    copy = parameters(cluster, "create", "copy", "--from", "web", "--family", "memcached1.4")
    assert copy["values"] == {"modern": 0, "idle_timeout": 5}
    assert parameters(cluster, "reset", "copy", "modern")["values"] == {"idle_timeout": 5}
    changed = parameters(cluster, "show", "web", "--changed")["parameters"]
    assert [row["name"] for row in changed] == ["modern", "idle_timeout"]
    assert "does not run" in cluster.refused("parameters apply", "web", status=69)
    done = cluster.run("parameters delete", "copy")
    assert done.stdout == "group copy deleted\n"


def test_events_are_told_as_lines_and_as_json(cluster: Cluster) -> None:
    cluster.up(*SMALL, "--nodes", "1")
    text = cluster.run("events", "--since", "1h", "--type", "cacheclusterprovisioningcomplete")
    assert text.stdout.endswith("  -     CacheClusterProvisioningComplete: 1 nodes\n")
    assert cluster.run("events", "--since", "2000-01-01", "--limit", "1").stdout
    assert cluster.run("events", "--since", "2199-01-01").stdout == ""
    assert "neither a time" in cluster.run("events", "--since", "soon").stderr
    assert "does not run" in cluster.refused("events", "--name", "nobody", status=69)
