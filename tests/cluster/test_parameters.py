"""Parameters and their groups: what may be said, what it means, and where it is kept."""

import threading
from pathlib import Path
from typing import Any

import pytest

from memcachepy.cluster.applying import (
    ON_RUNNING,
    When,
    applies,
    changes_between,
    when_of,
    with_group,
)
from memcachepy.cluster.groups import GROUP_DEFAULT, Group, Groups
from memcachepy.cluster.parameters import (
    FAMILIES,
    PARAMETERS,
    parameter,
    read_values,
    settings_of,
)
from memcachepy.cluster.spec import ClusterSpec, NodeSpec
from memcachepy.config import NodeConfig
from memcachepy.errors import ClusterError, ConfigError

NOT_MODIFIABLE = {"config_max", "config_size_max"}


def meaning(**values: object) -> dict[str, Any]:
    return settings_of(read_values(values))


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"backlog_queue_limit": "512"}, {"listen_backlog": 512}),
        ({"binding_protocol": "ascii"}, {"protocol": "ascii"}),
        ({"cas_disabled": "1"}, {"disable_cas": True}),
        ({"chunk_size": 48}, {"slab_min_size": 48}),
        ({"chunk_size_growth_factor": "1.25"}, {"slab_growth_factor": 1.25}),
        ({"error_on_memory_exhausted": 1}, {"disable_evictions": True}),
        ({"large_memory_pages": True}, {"enable_largepages": True}),
        ({"lock_down_paged_memory": "true"}, {"lock_memory": True}),
        ({"max_item_size": "4194304"}, {"max_item_size": 4 << 20}),
        ({"max_item_size": "4m"}, {"max_item_size": 4 << 20}),
        ({"max_simultaneous_connections": "65000"}, {"conn_limit": 65000}),
        ({"maximize_core_file_limit": "0"}, {"enable_coredumps": False}),
        ({"requests_per_event": "30"}, {"max_reqs_per_event": 30}),
        ({"hashpower_init": "16"}, {"hashpower": 16}),
        ({"maxconns_fast": "0"}, {"maxconns_fast": False}),
        ({"slab_automove": "2"}, {"slab_automove": 2}),
        ({"disable_flush_all": "1"}, {"disable_flush_all": True}),
        ({"expirezero_does_not_evict": "1"}, {"eviction_policy": "volatile-lru"}),
        ({"expirezero_does_not_evict": "0"}, {}),
        ({"watch": "disabled"}, {"disable_watch": True}),
        ({"watch": "enabled"}, {"disable_watch": False}),
        ({"lru_crawler metadump": "disabled"}, {"disable_dumping": True}),
        ({"slab_chunk_max": "524288"}, {"slab_chunk_max": 512}),
        ({"cache_memlimit": "128"}, {"memory_limit": 128}),
        ({"max_cache_memory": "512", "num_threads": "2"}, {"memory_limit": 512, "threads": 2}),
        ({"inline_ascii_resp": "1"}, {}),
        ({"eviction_policy": "allkeys-lfu"}, {"eviction_policy": "allkeys-lfu"}),
        ({"enable_shutdown": "yes"}, {"enable_shutdown": True}),
        (
            {"max_cache_memory": 512, "memcached_connections_overhead": 100},
            {"memory_limit": 412},
        ),
        ({"modern": 1}, {}),
        ({"no_modern": 0}, {}),
    ],
)
def test_what_a_parameter_means_to_a_node(
    values: dict[str, object], settings: dict[str, object]
) -> None:
    assert meaning(**values) == settings


@pytest.mark.parametrize("alias", [{"modern": 0}, {"no_modern": 1}])
def test_a_parameter_of_its_own_beats_the_alias_for_several(alias: dict[str, object]) -> None:
    old = meaning(**alias)
    assert old["slab_reassign"] is False
    assert old["maxconns_fast"] is False
    assert meaning(**alias, slab_reassign=1) == old | {"slab_reassign": True}


def test_the_overhead_is_taken_off_the_nodes_own_memory() -> None:
    values = read_values({"memcached_connections_overhead": "30"})
    assert settings_of(values) == {}
    assert settings_of(values, 64) == {"memory_limit": 34}
    with pytest.raises(ConfigError, match="less than the node's memory, which is 30 MB"):
        settings_of(values, 30)


def test_every_value_of_elasticaches_defaults_is_taken() -> None:
    for row in PARAMETERS.values():
        if row.elasticache and row.is_modifiable:
            value = row.read(row.elasticache)
            NodeConfig(**settings_of({row.name: value}, 1024))
            assert row.read(value) == value, f"{row.name} does not read what it has made"


def test_every_default_of_ours_is_a_value_of_the_parameter() -> None:
    config = NodeConfig()
    for row in PARAMETERS.values():
        own = row.of_config(config)
        if own is not None and row.is_modifiable:
            settings = settings_of({row.name: row.read(own)})
            NodeConfig(**settings)
            assert all(getattr(config, name) == value for name, value in settings.items())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"max_itm_size": "1"}, "there is no such parameter; did you mean max_item_size?"),
        ({"evicton_policy": "s3fifo"}, "did you mean eviction_policy?"),
        ({"xyzzy": "1"}, "there is no such parameter$"),
        ({"port": "11211"}, "belongs to one node"),
        ({"config_max": "32"}, "cannot be changed: it is 16"),
        ({"cas_disabled": "2"}, "must be 0 or 1"),
        ({"cas_disabled": 1.0}, "must be 0 or 1"),
        ({"idle_timeout": "soon"}, "must be a whole number of seconds from 0"),
        ({"watch": "off"}, "must be one of enabled, disabled"),
        ({"cache_memlimit": "4"}, "from 8 to"),
        ({"cache_memlimit": 64, "max_cache_memory": 128}, "must not contradict cache_memlimit"),
        ({"cas_disabled": 1, "disable_cas": "no"}, "both are disable_cas"),
    ],
)
def test_what_cannot_be_said_is_refused_with_its_reason(
    values: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_values(values)


def test_two_names_may_say_the_same() -> None:
    assert meaning(cache_memlimit=64, max_cache_memory=64) == {"memory_limit": 64}


def test_a_family_has_only_its_own_parameters() -> None:
    parameter("modern", "memcached1.4")
    parameter("no_modern", "memcached1.6")
    for name, family in (("modern", "memcached1.5"), ("no_modern", "memcached1.4")):
        with pytest.raises(ConfigError, match=f"is no parameter of {family}"):
            parameter(name, family)


def test_only_what_is_fixed_cannot_be_changed() -> None:
    assert {row.name for row in PARAMETERS.values() if not row.is_modifiable} == NOT_MODIFIABLE
    assert applies(PARAMETERS["config_max"]) == "fixed"
    assert applies(PARAMETERS["cache_memlimit"]) == "now"
    assert applies(PARAMETERS["watch"]) == "now"
    assert applies(PARAMETERS["idle_timeout"]) == "restart"
    assert applies(PARAMETERS["hash_algorithm"]) == "no effect"


# ---- groups ------------------------------------------------------------------------------------


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path / "state")


def test_the_default_groups_are_there_and_cannot_be_changed(groups: Groups) -> None:
    assert groups.names() == [f"default.{family}" for family in FAMILIES]
    assert groups.read(GROUP_DEFAULT).values == {}
    for change in (
        lambda: groups.set(GROUP_DEFAULT, {"idle_timeout": 1}),
        lambda: groups.reset(GROUP_DEFAULT),
        lambda: groups.delete(GROUP_DEFAULT),
    ):
        with pytest.raises(ClusterError, match="cannot be changed"):
            change()


def test_a_group_is_made_changed_reset_and_deleted(groups: Groups) -> None:
    made = groups.create("web", description='for "the" web\nshop')
    assert groups.read("web") == made
    values = {"max_item_size": "4m", "chunk_size_growth_factor": "1.25", "watch": "disabled"}
    groups.set("web", values)
    groups.set("web", {"cas_disabled": "1", "enable_shutdown": "1"})
    expected = {
        "max_item_size": 4 << 20,
        "chunk_size_growth_factor": 1.25,
        "watch": "disabled",
        "cas_disabled": 1,
        "enable_shutdown": True,
    }
    assert groups.read("web").values == expected
    groups.reset("web", ["watch", "cas_disabled"])
    assert groups.read("web").values.keys() == expected.keys() - {"watch", "cas_disabled"}
    groups.reset("web")
    assert groups.read("web") == made
    groups.delete("web")
    with pytest.raises(ClusterError, match="there is no parameter group web"):
        groups.read("web")


def test_a_refused_change_changes_nothing(groups: Groups) -> None:
    groups.create("web", values={"idle_timeout": 60})
    with pytest.raises(ConfigError):
        groups.set("web", {"track_sizes": 1, "idle_timout": 5})
    with pytest.raises(ConfigError, match="did you mean idle_timeout"):
        groups.reset("web", ["idle_timeot"])
    assert groups.read("web").values == {"idle_timeout": 60}


@pytest.mark.parametrize(
    "name", ["", "1st", "a b", "a--b", "a-", "../x", "default.mine", "x" * 129]
)
def test_a_name_that_cannot_be_a_groups_is_refused(groups: Groups, name: str) -> None:
    with pytest.raises(ConfigError, match="group"):
        groups.create(name)
    with pytest.raises(ClusterError):
        groups.read(name)


def test_a_misspelt_group_is_guessed(groups: Groups) -> None:
    groups.create("production")
    with pytest.raises(ClusterError, match="did you mean production"):
        groups.read("prodution")
    with pytest.raises(ClusterError, match="there is a parameter group production already"):
        groups.create("production")


def test_there_are_at_most_300_groups(groups: Groups) -> None:
    for number in range(300):
        groups.create(f"g{number}")
    with pytest.raises(ClusterError, match="there are 300"):
        groups.create("another")


def test_a_file_that_was_edited_by_hand_is_checked(groups: Groups, tmp_path: Path) -> None:
    groups.create("web")
    path = tmp_path / "state" / ".parameters" / "web.toml"
    path.write_text("[parameters]\nidle_timeout = 30\nmax_item_size = '2m'\n")
    assert groups.read("web").values == {"idle_timeout": 30, "max_item_size": 2 << 20}
    path.write_text("[parameters]\nidle_timeut = 30\n")
    with pytest.raises(ConfigError, match=r"idle_timeut .*web\.toml.*did you mean idle_timeout"):
        groups.read("web")
    for text in ("[", "family = 'memcached1.7'\n", "parameters = 7\n"):
        path.write_text(text)
        with pytest.raises(ClusterError, match="web"):
            groups.read("web")


def test_changes_at_the_same_time_lose_nothing(groups: Groups) -> None:
    groups.create("web")
    names = ["idle_timeout", "track_sizes", "cas_disabled", "slab_automove", "chunk_size"]
    threads = [threading.Thread(target=groups.set, args=("web", {name: 1})) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert groups.read("web").values.keys() == set(names)


# ---- what a group changes ----------------------------------------------------------------------


def test_what_can_be_changed_while_a_node_runs() -> None:
    config = NodeConfig(memory_limit=64)

    def when(**after: Any) -> dict[str, When]:
        changed = changes_between({"0001": (config, NodeConfig(**({"memory_limit": 64} | after)))})
        return {change.setting: change.when for change in changed}

    assert when() == {}
    assert when(memory_limit=128) == {"memory_limit": When.NOW}
    assert when(memory_limit=4) == {"memory_limit": When.RESTART}
    assert when(idle_timeout=9) == {"idle_timeout": When.RESTART}
    assert when(slab_automove=0) == {"slab_automove": When.NOW}
    assert when(slab_automove=0, slab_reassign=False) == {
        "slab_automove": When.RESTART,
        "slab_reassign": When.RESTART,
    }
    assert when(hash_algorithm="jenkins") == {"hash_algorithm": When.NOTHING}
    binary = NodeConfig(protocol="binary")
    assert all(when_of(name, binary, binary) is not When.NOW for name in ON_RUNNING)
    assert when(disable_watch=True) == {"disable_watch": When.NOW}
    silent = NodeConfig(control_socket="off")
    assert when_of("disable_watch", silent, silent) is When.RESTART


def test_a_change_names_the_nodes_that_it_is_for() -> None:
    plain, other = NodeConfig(idle_timeout=1), NodeConfig(idle_timeout=2)
    after = NodeConfig(idle_timeout=3)
    found = changes_between(
        {
            "0003": (plain, after),
            "0001": (plain, after),
            "0002": (other, after),
            "4": (after, after),
        }
    )
    assert [(change.before, change.node_ids) for change in found] == [
        (1, ("0001", "0003")),
        (2, ("0002",)),
    ]


def test_a_group_beats_the_flags_for_all_and_a_nodes_own_beat_the_group() -> None:
    nodes = (NodeSpec("0001", {"port": 1}), NodeSpec("0002", {"port": 2, "idle_timeout": 7}))
    spec = ClusterSpec("main", nodes, {"idle_timeout": 5, "memory_limit": 256})
    group = Group("web", values={"idle_timeout": 6, "memcached_connections_overhead": 56})
    applied = with_group(spec, group)
    configs = [applied.config_of(node) for node in applied.nodes]
    assert [config.idle_timeout for config in configs] == [6, 7]
    assert [config.memory_limit for config in configs] == [200, 200]
    assert applied.parameter_group == "web"
    assert with_group(applied, Group(GROUP_DEFAULT)).parameters == {}


def test_a_group_that_does_not_fit_a_node_is_refused_with_the_node() -> None:
    spec = ClusterSpec("main", (NodeSpec("0001", {"port": 1}),), {"memory_limit": 8})
    with pytest.raises(ConfigError, match=r"max_item_size.*node 0001.*half of memory_limit"):
        with_group(spec, Group("web", values={"max_item_size": 16 << 20}))
