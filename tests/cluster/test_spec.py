"""What command line, environment and file say together, and the values made of it."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcachepy.cluster.changes import with_free_ports
from memcachepy.cluster.spec import (
    ANY_PORT,
    NODES_MAX,
    ClusterSpec,
    NodeSpec,
    declare,
    own_settings,
    toml_text,
)
from memcachepy.errors import ConfigError, UnknownUser


def spec_of(file: Path | None = None, text: str = "", **flags: object) -> ClusterSpec:
    """Of a file with this text and these flags."""
    if file is not None:
        file.write_text(text)
    return declare(flags, {}, {}, file).spec()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def test_ports_are_counted_and_ids_are_numbers() -> None:
    spec = declare({"port": "12000"}, {"nodes": 3}, {}).spec()
    assert [(node.node_id, node.port) for node in spec.nodes] == [
        ("0001", 12000),
        ("0002", 12001),
        ("0003", 12002),
    ]


def test_a_nodes_own_beats_flags_beat_environment_beats_file(file: Path) -> None:
    file.write_text(
        "[settings]\nmemory_limit = 1\nconn_limit = 11\nthreads = 1\nlisten_backlog = 10\n"
        "[[node]]\n[[node]]\nmemory_limit = 4\n"
    )
    environ = {"MEMCACHEPY_MEMORY_LIMIT": "2", "MEMCACHEPY_CONN_LIMIT": "12", "HOME": "/"}
    spec = declare({"memory_limit": "3"}, {}, environ, file).spec()
    one, other = (spec.config_of(node) for node in spec.nodes)
    assert (one.memory_limit, one.conn_limit, one.threads, one.listen_backlog) == (3, 12, 1, 10)
    assert (other.memory_limit, other.conn_limit) == (4, 12)


def test_parameters_stand_between_flags_and_a_nodes_own() -> None:
    own = NodeSpec("0002", {"port": 2, "conn_limit": 5})
    spec = ClusterSpec(
        "c",
        (NodeSpec("0001", {"port": 1}), own),
        {"conn_limit": 3, "threads": 2},
        parameters={"conn_limit": 4},
    )
    assert [spec.config_of(node).conn_limit for node in spec.nodes] == [4, 5]
    assert spec.config_of(own).threads == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[node]]\nmemory_limt = 1\n", "memory_limt is 1 ({f}, [[node]] 1): there is no such"),
        ("[[node]]\n[[node]]\nthreads = 0\n", "threads is 0 ({f}, [[node]] 2): must be a whole"),
        ("[[node]]\ndaemon = true\n", "({f}, [[node]] 1): must not be given"),
        ("[settings]\nunix_socket = '/s'\n", "({f}, [settings]): must differ from node to node"),
        ("[settings]\nadvertise = 'a:1'\n", "({f}, [settings]): must have no port here"),
        ("[settings]\nthread = 1\n", "thread is 1 ({f}, [settings]): there is no such setting"),
        ("[cluster]\nnode = 1\n", "node is 1 ({f}, [cluster]): there is no such key; did you mean"),
        ("[cluster]\ndrain = -1\n", "drain is -1 ({f}, [cluster]): must be a number of seconds"),
        ("[cluster]\nnodes = 3\n[[node]]\n", "nodes is 3: must be 1: {f} has so many tables"),
        ("memory_limit = 1\n", "memory_limit is 1 ({f}): must be in a table"),
        ("node = 1\n", "node is 1 ({f}): must be a table"),
        ("[[node]]\nid = 'x'\n[[node]]\nid = 'x'\nport = 1\n", "id is 'x': must belong to one"),
        ("[[node]]\nid = '../x'\n", "id is '../x' ({f}, [[node]] 1): must be at most"),
        ("[[node]]\nport = 5\n[[node]]\nport = 5\n", "port is 5 (node 0002): is the port of node"),
        ("[[node]]\nport = 0\n", "port is 0 ({f}, [[node]] 1): must not be 0"),
        ("[settings]\nport = 65535\n[[node]]\n[[node]]\n", "must be at most 65535"),
        ("[[node]]\nmax_item_size = '8m'\nmemory_limit = 2\n", "[[node]] 1): must be at most half"),
        ("[[node", "FILE is '{f}': is not TOML"),
    ],
)  # fmt: skip
def test_errors_name_file_node_setting_and_limit(file: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_of(file, text)
    assert said.replace("{f}", str(file)) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        declare({}, {}, {}, tmp_path / "none")


def test_settings_of_the_launcher_are_refused_as_flags() -> None:
    for name in ("daemon", "join", "node_id", "discovery_state"):
        with pytest.raises(ConfigError, match="must not be given"):
            declare({name: "x"}, {}, {})
        with pytest.raises(ConfigError, match="must not be given"):
            own_settings({name: "x"})
    assert declare({"control_socket": "off"}, {}, {}).settings == {"control_socket": "off"}


def test_paths_count_from_where_the_command_is_given() -> None:
    assert own_settings({"unix_socket": "here.sock"}) == {
        "unix_socket": str(Path.cwd() / "here.sock")
    }


def test_commands_that_say_the_same_are_known_again() -> None:
    one = declare({"memory_limit": "64"}, {"nodes": 2}, {})
    assert one.declared == declare({}, {"nodes": "2"}, {"MEMCACHEPY_MEMORY_LIMIT": "64"}).declared
    assert one.declared != declare({"memory_limit": "65"}, {"nodes": 2}, {}).declared
    assert declare({}, {"name": "x"}, {}).says_nothing
    assert not one.says_nothing


def test_lowest_id_that_is_free_and_the_port_that_belongs_to_it() -> None:
    spec = declare({"port": "12000"}, {"nodes": 4}, {}).spec().without(["0002", "0004"])
    assert spec.free_id() == "0002"
    assert spec.wanted_port("0002") == 12001
    assert spec.wanted_port("big") == ANY_PORT


def test_any_port_is_a_free_one_for_each() -> None:
    spec = with_free_ports(declare({"port": "-1"}, {"nodes": 5}, {}).spec())
    ports = {node.port for node in spec.nodes}
    assert len(ports) == 5
    assert min(ports) > 0
    assert spec.port == ANY_PORT


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "a/b", "x" * 65, "a b"])
def test_names_that_are_no_folders(name: str) -> None:
    with pytest.raises(ConfigError, match="name is"):
        ClusterSpec(name, (NodeSpec("0001", {"port": 1}),))


def test_numbers_of_nodes() -> None:
    with pytest.raises(ConfigError, match=f"must be 1 to {NODES_MAX}"):
        ClusterSpec("c", ())
    with pytest.raises(ConfigError, match=f"from 1 to {NODES_MAX}"):
        declare({}, {"nodes": NODES_MAX + 1}, {})


def test_spec_and_its_form_in_the_file_are_the_same(file: Path) -> None:
    spec = spec_of(file, "[cluster]\nhashing = 'ketama'\n[[node]]\nlisten = ['::1', '127.0.0.1']\n")
    spec = spec.with_leaving(["0001"])
    assert ClusterSpec.from_dict(spec.as_dict()) == spec
    assert spec.staying == ()
    for wrong in ({}, {"nodes": 1}, {**spec.as_dict(), "nodes": []}, {**spec.as_dict(), "x": 1}):
        with pytest.raises(ValueError, match="this is no cluster"):
            ClusterSpec.from_dict(wrong)


values = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=3),
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), values, max_size=5))
def test_toml_text_reads_as_what_was_written(settings: dict[str, object]) -> None:
    assert tomllib.loads(toml_text(settings)) == settings


def test_two_nodes_cannot_listen_in_one_place() -> None:
    listen = "127.0.0.1:25200,127.0.0.1:25200"
    assert declare({"listen": listen}, {"nodes": 1}, {}).spec().checked()
    assert declare({"listen": "127.0.0.1,127.0.0.2"}, {"nodes": 2}, {}).spec().checked()
    spec = declare({"listen": listen}, {"nodes": 2}, {}).spec()
    with pytest.raises(ConfigError, match="is where node 0001 listens already"):
        spec.checked()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives nodes a user")
def test_a_user_that_does_not_exist_is_named() -> None:
    spec = declare({"user": "nosuch"}, {"nodes": 1}, {}).spec()
    with pytest.raises(UnknownUser, match="'nosuch' .*there is no such user"):
        spec.checked()
