"""Settings: where each may come from, what wins, and what is refused in which words."""

from pathlib import Path
from typing import Any

import pytest

from memcachepy.config import SETTINGS, NodeConfig, resolve
from memcachepy.errors import ConfigError
from memcachepy.kinds import Address, Switch

EXAMPLES: dict[str, tuple[str, Any]] = {
    "port": ("11300", 11300),
    "udp_port": ("0", 0),
    "unix_socket": ("/run/cache.sock", "/run/cache.sock"),
    "unix_mask": ("770", 0o770),
    "listen": ("10.0.0.1,[::1]:11300", (Address("10.0.0.1"), Address("::1", 11300))),
    "memory_limit": ("128", 128),
    "max_item_size": ("512k", 512 << 10),
    "slab_growth_factor": ("1.5", 1.5),
    "slab_min_size": ("48", 48),
    "conn_limit": ("2000", 2000),
    "threads": ("3", 3),
    "listen_backlog": ("2048", 2048),
    "max_reqs_per_event": ("50", 50),
    "eviction_policy": ("allkeys-lru", "allkeys-lru"),
    "disable_evictions": ("no", False),
    "disable_cas": ("true", True),
    "disable_flush_all": ("1", True),
    "enable_largepages": ("1", True),
    "enable_shutdown": ("on", True),
    "user": ("nobody", "nobody"),
    "control_socket": ("/run/control.sock", "/run/control.sock"),
    "control_group": ("daemon", "daemon"),
    "kill_stuck_attached": ("on", True),
    "advertise": ("cache.example.org:1", Address("cache.example.org", 1)),
    "join": ("file:/run/cluster.json", "file:/run/cluster.json"),
    "node_id": ("0001", "0001"),
    "discovery_state": ("/var/lib/x.json", "/var/lib/x.json"),
    "verbose": ("2", 2),
    "daemon": ("yes", True),
    "pidfile": ("/run/cache.pid", "/run/cache.pid"),
    "enable_coredumps": ("on", True),
    "lock_memory": ("on", True),
    "protocol": ("ascii", "ascii"),
    "stat_key_prefix": ("|", "|"),
    "disable_dumping": ("on", True),
    "disable_watch": ("on", True),
    "napi_ids": ("2", 2),
    "maxconns_fast": ("no", False),
    "idle_timeout": ("60", 60),
    "lru_crawler": ("no", False),
    "slab_reassign": ("no", False),
    "slab_automove": ("2", 2),
    "slab_sizes": ("64-128-1000", "64-128-1000"),
    "track_sizes": ("yes", True),
    "watcher_logbuf_size": ("512", 512),
    "worker_logbuf_size": ("128", 128),
    "slab_automove_ratio": ("0.5", 0.5),
    "slab_automove_window": ("30", 30),
    "slab_automove_freeratio": ("0.02", 0.02),
    "slab_chunk_max": ("256", 256),
    "hashpower": ("20", 20),
    "hash_algorithm": ("jenkins", "jenkins"),
    "tail_repair_time": ("600", 600),
    "lru_crawler_sleep": ("500", 500),
    "lru_crawler_tocrawl": ("1000", 1000),
    "lru_maintainer": ("no", False),
    "hot_lru_pct": ("10", 10),
    "warm_lru_pct": ("30", 30),
    "hot_max_factor": ("0.5", 0.5),
    "warm_max_factor": ("3", 3.0),
    "temporary_ttl": ("30", 30),
    "read_buf_mem_limit": ("64", 64),
    "drop_privileges": ("on", True),
}


def config(
    flags: dict[str, object] | None = None,
    environ: dict[str, str] | None = None,
    file: Path | None = None,
) -> NodeConfig:
    return resolve(flags or {}, environ or {}, file)[0]


def refusal(*args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        config(*args)
    assert caught.value.exit_status == 64
    return str(caught.value)


def toml(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_every_setting_has_an_example() -> None:
    assert EXAMPLES.keys() == SETTINGS.keys()


def test_letters_are_distinct() -> None:
    letters = [setting.letter for setting in SETTINGS.values() if setting.letter]
    assert len(set(letters)) == len(letters)


@pytest.mark.parametrize("name", SETTINGS)
def test_setting_can_come_from_flag_environment_and_file(name: str, tmp_path: Path) -> None:
    text, value = EXAMPLES[name]
    flag: object = value if isinstance(SETTINGS[name].kind, Switch) else text
    assert getattr(config({name: flag}), name) == value
    assert getattr(config({}, {SETTINGS[name].variable: text}), name) == value
    assert getattr(config({}, {}, toml(tmp_path, f'{name} = "{text}"')), name) == value


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 3\nthreads = 3\nconn_limit = 3\n")
    environ = {"MEMCACHEPY_PORT": "2", "MEMCACHEPY_THREADS": "2"}
    chosen = config({"port": "1"}, environ, file)
    assert (chosen.port, chosen.threads, chosen.conn_limit) == (1, 2, 3)
    assert chosen.memory_limit == 64


def test_config_variable_names_the_file(tmp_path: Path) -> None:
    file = toml(tmp_path, 'listen = ["127.0.0.1", "[::1]:11212"]\ndisable_cas = true')
    chosen = config({}, {"MEMCACHEPY_CONFIG": str(file)})
    assert chosen.listen == (Address("127.0.0.1"), Address("::1", 11212))
    assert chosen.disable_cas


def test_error_names_setting_value_range_and_source(tmp_path: Path) -> None:
    assert refusal({"port": "65536"}) == (
        "port is '65536' (-p): must be a whole number from -1 to 65535"
    )
    assert refusal({}, {"MEMCACHEPY_PORT": "x"}).startswith("port is 'x' (MEMCACHEPY_PORT): must")
    file = toml(tmp_path, "port = true")
    assert refusal({}, {}, file).startswith(f"port is True ({file}): must be a whole number")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "-2"),
        ("port", "1_0"),
        ("port", "0x10"),
        ("port", "٣"),
        ("port", "9" * 40),
        ("udp_port", "11211"),
        ("unix_mask", "800"),
        ("unix_mask", "1000"),
        ("unix_socket", ""),
        ("unix_socket", "a\0b"),
        ("memory_limit", "0"),
        ("memory_limit", "64m"),
        ("max_item_size", "1023"),
        ("max_item_size", "1025m"),
        ("max_item_size", "1g"),
        ("slab_growth_factor", "1"),
        ("slab_growth_factor", "nan"),
        ("slab_growth_factor", "inf"),
        ("slab_min_size", "0"),
        ("conn_limit", "0"),
        ("threads", "0"),
        ("listen_backlog", "0"),
        ("max_reqs_per_event", "0"),
        ("disable_cas", "maybe"),
        ("listen", ""),
        ("listen", "127.0.0.1:"),
        ("listen", "127.0.0.1:0"),
        ("listen", "127.0.0.1:65536"),
        ("listen", "127.0.0.1,,::1"),
        ("listen", "[::1"),
        ("listen", "a b"),
        ("listen", "btls:a"),
        ("listen", "proto[proxy]:a"),
        ("listen", "tag[far_too_long]:a"),
        ("stat_key_prefix", "ab"),
        ("stat_key_prefix", " "),
        ("protocol", "udp"),
    ],
)
def test_out_of_range_is_refused(name: str, text: str) -> None:
    sentence = refusal({name: text})
    assert sentence.startswith(f"{name} is {text!r} (-{SETTINGS[name].letter}): ")


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("*", [Address("*")]),
        ("*:80", [Address("*", 80)]),
        ("::1", [Address("::1")]),
        ("[::1]", [Address("::1")]),
        ("[fe80::1%eth0]:1", [Address("fe80::1%eth0", 1)]),
        ("cache.example.org:11212", [Address("cache.example.org", 11212)]),
        ("a;b , c", [Address("a"), Address("b"), Address("c")]),
        ("a,a", [Address("a")]),
        ("notls:a:1", [Address("a", 1)]),
        ("tag[b]:[::1]:1,tag_b_:a", [Address("::1", 1), Address("a")]),
        ("notls:proto[ascii]:tag_b_:a", [Address("a", None, "ascii")]),
        ("proto[negotiating]:a", [Address("a", None, "auto")]),
    ],
)
def test_addresses_as_memcached_writes_them(text: str, addresses: list[Address]) -> None:
    assert list(config({"listen": text}).listen) == addresses


def test_listen_may_be_repeated() -> None:
    assert config({"listen": ("a", "b:1,c")}).listen == (
        Address("a"),
        Address("b", 1),
        Address("c"),
    )


def test_address_text_can_be_read_back() -> None:
    for address in (Address("::1", 5), Address("::1"), Address("10.0.0.1", 5), Address("a")):
        assert config({"listen": str(address)}).listen == (address,)


def test_largest_item_is_at_most_half_of_the_memory() -> None:
    assert config({"memory_limit": "2"}).max_item_size == 1 << 20
    assert config({"memory_limit": "1"}).max_item_size == 1 << 19
    assert refusal({"max_item_size": "33m"}) == (
        "max_item_size is '33m' (-I): must be at most half of memory_limit, which is 64 MB"
    )


def test_unix_socket_turns_tcp_off_unless_it_is_asked_for() -> None:
    assert config({"unix_socket": "/s"}).port == 0
    assert config({"unix_socket": "/s", "port": "5"}).port == 5
    assert config({"unix_socket": "/s", "listen": "127.0.0.1"}).port == 11211


def test_one_protocol_is_spoken_everywhere() -> None:
    assert config().binding_protocol == "auto-negotiate"
    assert config({"listen": "proto[binary]:a,proto[binary]:b"}).binding_protocol == "binary"
    assert config({"protocol": "ascii"}).binding_protocol == "ascii"
    assert refusal({"listen": "proto[ascii]:a,b"}).startswith("listen is 'a,b'")


def test_settings_of_the_lru_fit_each_other() -> None:
    assert "at most 80" in refusal({"hot_lru_pct": "50", "warm_lru_pct": "50"})
    assert "no_lru_maintainer" in refusal({"temporary_ttl": "5", "lru_maintainer": False})


def test_a_node_without_any_socket_is_refused() -> None:
    assert refusal({"port": "0"}).startswith("port is 0 (-p): must not be 0")
    assert config({"port": "0", "listen": "127.0.0.1:5"}).listen[0].port == 5


def test_unknown_key_of_the_file_is_an_error_with_a_guess(tmp_path: Path) -> None:
    file = toml(tmp_path, "memory_limt = 5")
    assert refusal({}, {}, file) == (
        f"memory_limt is 5 ({file}): there is no such setting; did you mean memory_limit?"
    )


def test_file_that_is_not_toml_or_not_there_is_an_error(tmp_path: Path) -> None:
    assert "is not TOML" in refusal({}, {}, toml(tmp_path, "port 5"))
    assert "cannot be read: No such file" in refusal({}, {}, tmp_path / "none")
    assert "(MEMCACHEPY_CONFIG)" in refusal({}, {"MEMCACHEPY_CONFIG": str(tmp_path / "none")})


def test_unknown_variable_is_a_warning_with_a_guess() -> None:
    _, warnings = resolve({}, {"MEMCACHEPY_MEMORY": "1", "HOME": "/"})
    assert len(warnings) == 1
    assert warnings[0].startswith("MEMCACHEPY_MEMORY is not a setting and has no effect")


def test_config_is_checked_when_made_and_cannot_change() -> None:
    with pytest.raises(ConfigError, match="conn_limit is 0: must be"):
        NodeConfig(conn_limit=0)
    with pytest.raises(AttributeError):
        NodeConfig().port = 5  # type: ignore[misc]
