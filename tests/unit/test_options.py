"""Every option of memcached's command line: what it sets, or why it is refused; and README."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from memcachepy import _core
from memcachepy.cli.serve import NOT_OFFERED
from memcachepy.config import SETTINGS, NodeConfig, resolve
from memcachepy.errors import ConfigError
from memcachepy.extended import EXTENDED, REFUSED, TAKEN, read_extended
from memcachepy.node.boot import segment_settings

README = (Path(__file__).parents[2] / "README.md").read_text()

# Flags as they are given, and what `stats settings` then shows.
SHOWN = {
    "port=11300": {"tcpport": "0"},  # What was opened counts: here nothing was.
    "unix_socket=/run/x": {"domain_socket": "/run/x"},
    "unix_mask=770": {"umask": "770"},
    "enable_shutdown=on": {"shutdown_command": "yes"},
    "memory_limit=100": {"maxbytes": "104857600"},
    "disable_evictions=on": {"evictions": "off"},
    "conn_limit=77": {"maxconns": "77"},
    "verbose=2": {"verbosity": "2"},
    "slab_growth_factor=1.5": {"growth_factor": "1.50"},
    "slab_min_size=48": {"chunk_size": "48"},
    "stat_key_prefix=/": {"stat_key_prefix": "/", "detail_enabled": "yes"},
    "threads=3": {"num_threads": "3"},
    "max_reqs_per_event=30": {"reqs_per_event": "30"},
    "disable_cas=on": {"cas_enabled": "no"},
    "listen_backlog=2000": {"tcp_backlog": "2000"},
    "protocol=ascii": {"binding_protocol": "ascii"},
    "max_item_size=2m": {"item_size_max": "2097152"},
    "disable_flush_all=on": {"flush_enabled": "no"},
    "disable_dumping=on": {"dump_enabled": "no"},
    "napi_ids=2": {"num_napi_ids": "2"},
    "-o no_maxconns_fast": {"maxconns_fast": "no"},
    "-o hashpower=20": {"hashpower_init": "20"},
    "-o tail_repair_time=60": {"tail_repair_time": "60"},
    "-o hash_algorithm=jenkins": {"hash_algorithm": "jenkins"},
    "-o no_lru_crawler": {"lru_crawler": "no"},
    "-o lru_crawler_sleep=500": {"lru_crawler_sleep": "500"},
    "-o lru_crawler_tocrawl=7": {"lru_crawler_tocrawl": "7"},
    "-o no_lru_maintainer": {"lru_maintainer_thread": "no", "lru_segmented": "no"},
    "-o hot_lru_pct=10": {"hot_lru_pct": "10"},
    "-o warm_lru_pct=10": {"warm_lru_pct": "10"},
    "-o hot_max_factor=0.5": {"hot_max_factor": "0.50"},
    "-o warm_max_factor=3": {"warm_max_factor": "3.00"},
    "-o temporary_ttl=30": {"temporary_ttl": "30", "temp_lru": "yes"},
    "-o idle_timeout=60": {"idle_timeout": "60"},
    "-o no_slab_reassign": {"slab_reassign": "no", "slab_automove": "0"},
    "-o slab_automove=2": {"slab_automove": "2"},
    "-o slab_automove_ratio=0.5": {"slab_automove_ratio": "0.50"},
    "-o slab_automove_window=30": {"slab_automove_window": "30"},
    "-o slab_chunk_max=256": {"slab_chunk_max": "262144"},
    "-o watcher_logbuf_size=512": {"watcher_logbuf_size": "524288"},
    "-o worker_logbuf_size=128": {"worker_logbuf_size": "131072"},
    "-o track_sizes": {"track_sizes": "yes"},
    "-o read_buf_mem_limit=64": {"read_buf_mem_limit": "67108864"},
    "-o no_modern": {"slab_chunk_max": "1048576", "maxconns_fast": "no", "lru_crawler": "no"},
    "-o modern": {},
}

# What shows elsewhere than in `stats settings`; tests/node has it all.
SHOWN_ELSEWHERE = frozenset(
    "udp_port listen eviction_policy enable_largepages user control_socket control_group "
    "kill_stuck_attached daemon pidfile enable_coredumps lock_memory disable_watch "
    "slab_automove_freeratio slab_sizes drop_privileges "
    "advertise join node_id discovery_state".split()
)


def config(given: str) -> NodeConfig:
    if given.startswith("-o "):
        return resolve(read_extended([given[3:]]), {})[0]
    name, value = given.split("=")
    return resolve({name: value}, {})[0]


def stats_settings(chosen: NodeConfig) -> dict[str, str]:
    segment = _core.Segment(segment_settings(chosen, []))
    connection = _core.Connection(segment)
    try:
        lines = connection.feed(b"stats settings\r\n").decode().splitlines()
    finally:
        connection.close()
        segment.close()
    return dict(line.split(" ", 2)[1:] for line in lines if line.startswith("STAT "))


@pytest.mark.parametrize("given", SHOWN)
def test_option_shows_in_stats_settings(given: str) -> None:
    before = stats_settings(NodeConfig())
    after = stats_settings(config(given))
    assert after.items() >= SHOWN[given].items()
    if SHOWN[given] and given != "port=11300":
        assert not before.items() >= SHOWN[given].items()


def test_every_setting_shows_somewhere() -> None:
    shown = {re.sub(r"^(-o )?(no_)?([a-z_]+).*", r"\3", given) for given in SHOWN}
    assert shown - {"modern"} == SETTINGS.keys() - SHOWN_ELSEWHERE


@pytest.mark.parametrize("name", [*REFUSED])
def test_refused_option_gives_its_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(REFUSED[name])):
        config(f"-o {name}")


def test_more_slab_classes_than_there_can_be_are_refused() -> None:
    with pytest.raises(ValueError, match="more than 63 slab classes"):
        stats_settings(config("slab_growth_factor=1.01"))


def test_slab_sizes_are_the_slab_classes() -> None:
    segment = _core.Segment(segment_settings(config("-o slab_sizes=64-128-1000"), []))
    connection = _core.Connection(segment)
    try:
        for key, size in ((b"a", 1), (b"b", 90), (b"c", 500), (b"d", 2000)):
            request = b"set %b 0 0 %d\r\n%b\r\n" % (key, size, bytes(size))
            assert connection.feed(request) == b"STORED\r\n"
        lines = connection.feed(b"stats slabs\r\n").decode().split("\r\n")
    finally:
        connection.close()
        segment.close()
    sizes = [line.split()[2] for line in lines if ":chunk_size " in line]
    assert sizes[:3] == ["64", "128", "1000"]
    assert int(sizes[3]) > 8000
    assert len(sizes) == 4


# ---- README --------------------------------------------------------------------------------------


def rows_under(head: str) -> list[list[str]]:
    """The cells of the table whose first line begins so."""
    lines = README.partition(f"\n{head}")[2].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"\s*\|\s*", line.strip("|"))])
    assert rows, head
    return rows


def words(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def test_readme_has_every_flag() -> None:
    rows = {frozenset(words(row[0])) for row in rows_under("| Flag | Default | Meaning |")}
    flags = {word for row in rows for word in row}
    for setting in SETTINGS.values():
        if not setting.is_extended:
            assert {setting.short_flag, setting.flag} <= flags, setting.name
    assert flags >= {"-o", "--extended", "-i", "-V", "-h"}


def test_readme_has_every_name_that_has_an_effect_with_its_default() -> None:
    rows = {row[0].strip("`"): row[1] for row in rows_under("| Name for `-o` | Default")}
    offered = {name: s for name, s in EXTENDED.items() if s.has_effect}
    assert rows.keys() == offered.keys() | {"no_modern"}
    texts = {"True": "on", "False": "off"}
    for name, setting in offered.items():
        assert rows[name] == texts.get(setting.default_text, setting.default_text), name


def test_readme_lists_what_has_no_effect() -> None:
    paragraph = README.partition("\nTaken and shown in")[2].partition("\n\n")[0]
    shown, _, traceless = paragraph.partition("taken without a trace")
    ignored = {name for name, setting in EXTENDED.items() if not setting.has_effect}
    assert words(shown) - {"stats settings"} == ignored
    assert words(traceless) == TAKEN - {"no_modern"}


def _is_in(row: set[str]) -> Callable[[str], bool]:
    def is_in(name: str) -> bool:
        return any(name.startswith(word[3:-1]) for word in row if word.startswith("-o "))

    return is_in


def test_readme_lists_what_is_refused_with_the_same_reason() -> None:
    rows = [(words(row[0]), row[1]) for row in rows_under("| Refused | Why |")]
    for name, reason in REFUSED.items():
        assert [why for row, why in rows if _is_in(row)(name)] == [reason], name
    for letter, (long_name, _, reason) in NOT_OFFERED.items():
        assert [why for row, why in rows if {letter, long_name} <= row] == [reason]
