"""`stats`: memcached's keys in memcached's order, summed over all processes."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from support.server import Server, node
from support.waiting import wait_until

pytestmark = pytest.mark.once

# Of memcached 1.6.45 with its default options.
GENERAL = (
    "pid uptime time version libevent pointer_size rusage_user rusage_system max_connections "
    "curr_connections total_connections rejected_connections connection_structures "
    "response_obj_oom response_obj_count response_obj_bytes read_buf_count read_buf_bytes "
    "read_buf_bytes_free read_buf_oom reserved_fds cmd_get cmd_set cmd_flush cmd_touch cmd_meta "
    "get_hits get_misses get_expired get_flushed delete_misses delete_hits incr_misses incr_hits "
    "decr_misses decr_hits cas_misses cas_hits cas_badval touch_hits touch_misses store_too_large "
    "store_no_memory auth_cmds auth_errors bytes_read bytes_written limit_maxbytes "
    "accepting_conns listen_disabled_num time_in_listen_disabled_us threads conn_yields "
    "hash_power_level hash_bytes hash_is_expanding slab_reassign_rescues "
    "slab_reassign_chunk_rescues slab_reassign_inline_reclaim slab_reassign_busy_items "
    "slab_reassign_busy_deletes slab_reassign_busy_nomem slab_reassign_last_busy_status "
    "slab_reassign_running slabs_moved lru_crawler_running lru_crawler_starts "
    "lru_maintainer_juggles malloc_fails log_worker_dropped log_worker_written "
    "log_watcher_skipped log_watcher_sent log_watchers unexpected_napi_ids round_robin_fallback "
    "bytes curr_items total_items slab_global_page_pool expired_unfetched evicted_unfetched "
    "evicted_active evictions reclaimed crawler_reclaimed crawler_items_checked lrutail_reflocked "
    "moves_to_cold moves_to_warm moves_within_lru direct_reclaims lru_bumps_dropped "
).split()

SETTINGS = (
    "maxbytes maxconns tcpport udpport inter verbosity oldest evictions domain_socket umask "
    "shutdown_command growth_factor chunk_size num_threads num_threads_per_udp stat_key_prefix "
    "detail_enabled reqs_per_event cas_enabled tcp_backlog binding_protocol auth_enabled_sasl "
    "auth_enabled_ascii item_size_max maxconns_fast hashpower_init slab_reassign slab_automove "
    "slab_automove_ratio slab_automove_window slab_chunk_max lru_crawler lru_crawler_sleep "
    "lru_crawler_tocrawl tail_repair_time flush_enabled dump_enabled hash_algorithm "
    "lru_maintainer_thread lru_segmented hot_lru_pct warm_lru_pct hot_max_factor warm_max_factor "
    "temp_lru temporary_ttl idle_timeout watcher_logbuf_size worker_logbuf_size "
    "read_buf_mem_limit track_sizes inline_ascii_response num_napi_ids memory_file "
    "client_flags_size lru_effect eviction_policy large_pages"
).split()


@pytest.fixture(scope="module")
def three_workers() -> Iterator[Server]:
    with node("-m", "32", "-c", "50", "-R", "30", workers=3) as server:
        yield server


@pytest.fixture
def several(three_workers: Server) -> Server:
    """The node of all tests here, after the connections of the test before have closed."""
    wait_until(lambda: three_workers.stats()["curr_connections"] == "1", "one connection")
    return three_workers


def test_general_keys_stand_in_memcacheds_order(several: Server) -> None:
    assert list(several.stats()) == GENERAL


def test_settings_keys_stand_in_memcacheds_order(several: Server) -> None:
    assert list(several.stats("settings")) == SETTINGS


def test_settings_are_those_of_the_command_line(several: Server) -> None:
    settings = several.stats("settings")
    assert settings["maxbytes"] == str(32 << 20)
    assert settings["maxconns"] == "50"
    assert settings["num_threads"] == "3"
    assert settings["reqs_per_event"] == "30"
    assert settings["tcpport"] == str(several.port)
    assert settings["udpport"] == "0"
    assert settings["evictions"] == "on"
    assert settings["cas_enabled"] == "yes"
    assert settings["flush_enabled"] == "yes"
    assert settings["shutdown_command"] == "no"
    assert settings["item_size_max"] == str(1 << 20)


def test_general_values_are_those_of_the_node(several: Server) -> None:
    stats = several.stats()
    assert int(stats["pid"]) == several.pid
    assert stats["version"] == "1.6.45"
    assert stats["pointer_size"] == "64"
    assert stats["threads"] == "3"
    assert stats["limit_maxbytes"] == str(32 << 20)
    assert stats["max_connections"] == "50"
    assert stats["accepting_conns"] == "1"
    assert "." in stats["rusage_user"]


def test_counters_are_summed_over_all_workers(several: Server) -> None:
    """Six connections on three workers: each worker counts, everyone sees the sum."""
    clients = [several.client() for _ in range(6)]
    before = clients[0].stats()
    for number, client in enumerate(clients):
        client.ask(b"set s%d 0 0 1\r\n1\r\n" % number, b"STORED\r\n")
        client.ask(b"get s%d none\r\n" % number, b"VALUE s%d 0 1\r\n1\r\nEND\r\n" % number)
    for client in clients:
        after = client.stats()
        moved = {
            name: int(after[name]) - int(before[name])
            for name in ("cmd_set", "cmd_get", "get_hits", "get_misses", "total_items")
        }
        assert moved == {
            "cmd_set": 6,
            "cmd_get": 12,
            "get_hits": 6,
            "get_misses": 6,
            "total_items": 6,
        }
        assert after["curr_connections"] == "6"
    for client in clients:
        client.close()


def test_bytes_read_and_written_are_counted(several: Server) -> None:
    with several.client() as client:
        client.ask(b"set b 0 0 5000\r\n" + b"b" * 5000 + b"\r\n", b"STORED\r\n")
        before = client.stats()
        client.send(b"get b\r\n" * 10)
        client.take(10 * len(b"VALUE b 0 5000\r\n" + b"b" * 5000 + b"\r\nEND\r\n"))
        after = client.stats()
    assert int(after["bytes_written"]) - int(before["bytes_written"]) >= 50_000
    assert 70 <= int(after["bytes_read"]) - int(before["bytes_read"]) < 1000


def test_reset_zeroes_what_counts_and_keeps_what_is(several: Server) -> None:
    clients = [several.client() for _ in range(3)]
    for client in clients:
        client.ask(b"set kept 0 0 1\r\n1\r\n", b"STORED\r\n")
    kept = clients[0].stats()["curr_items"]
    clients[0].ask(b"stats reset\r\n", b"RESET\r\n")
    for client in clients:
        stats = client.stats()
        for name in ("cmd_set", "cmd_get", "get_hits", "total_items", "total_connections"):
            assert stats[name] == "0", name
        assert stats["curr_items"] == kept
        assert stats["curr_connections"] == "3"
        assert int(stats["pid"]) == several.pid
    for client in clients:
        client.close()


def test_the_limit_of_connections_is_exact_and_is_told(several: Server) -> None:
    with ExitStack() as clients:
        served = [clients.enter_context(several.client()) for _ in range(50)]
        for client in served:
            client.ask(b"get none\r\n", b"END\r\n")
        with several.client() as one_more:
            assert one_more.take_until(b"\n") == b"ERROR Too many open connections\r\n"
            one_more.expect_close()
        assert served[0].stats()["rejected_connections"] == "1"


def test_our_own_statistics_have_their_own_part(several: Server) -> None:
    ours = several.stats("memcachepy")
    reasons = "probation main page_move donation table shrink".split()
    assert not {f"evicted_{reason}" for reason in reasons} - set(ours)
    assert not set(ours) & set(GENERAL) - {"version", "pid"}
