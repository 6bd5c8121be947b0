"""Which keys `stats` has depends on the options in force, as in memcached."""

import os
import random
import signal
import threading

import pytest
from support.server import node
from support.waiting import wait_until

MAINTAINER = (
    "lru_maintainer_juggles evicted_active moves_to_cold moves_to_warm moves_within_lru "
    "direct_reclaims lru_bumps_dropped"
).split()
CRAWLER = "lru_crawler_running lru_crawler_starts".split()
REASSIGN = (
    "slab_reassign_rescues slab_reassign_chunk_rescues slab_reassign_inline_reclaim "
    "slab_reassign_busy_items slab_reassign_busy_deletes slab_reassign_busy_nomem "
    "slab_reassign_last_busy_status slab_reassign_running slabs_moved"
).split()

# What never goes back while nobody resets: memcached's counters.
COUNTERS = (
    "total_connections rejected_connections cmd_get cmd_set cmd_touch get_hits get_misses "
    "delete_hits delete_misses incr_hits incr_misses total_items evictions bytes_read "
    "bytes_written"
).split()
# What is counted within a transaction: seen in an open one, and undone when its worker dies.
UNDONE = {"total_items": 1, "evictions": 1}
CLASS_COUNTERS = "get_hits cmd_set delete_hits incr_hits touch_hits".split()


def test_the_keys_of_default_options() -> None:
    with node() as server:
        keys = list(server.stats())
    assert len(keys) == 93
    assert not set(MAINTAINER + CRAWLER + REASSIGN) - set(keys)
    assert "idle_kicks" not in keys


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ("no_lru_crawler,no_lru_maintainer", CRAWLER + MAINTAINER),
        ("no_lru_crawler", CRAWLER),
        ("no_slab_reassign", REASSIGN),
        ("no_maxconns_fast", ["rejected_connections"]),
    ],
)
def test_groups_of_what_is_off_are_not_there(options: str, gone: list[str]) -> None:
    with node() as server:
        everything = list(server.stats())
    with node("-o", options) as server:
        keys = list(server.stats())
    assert keys == [key for key in everything if key not in gone]


def test_memcacheds_own_test_finds_its_84_keys() -> None:
    with node("-o", "no_lru_crawler,no_lru_maintainer") as server:
        assert len(server.stats()) == 84


def test_idle_kicks_are_there_with_a_timeout() -> None:
    with node("-o", "idle_timeout=100") as server:
        keys = list(server.stats())
    assert keys[keys.index("auth_errors") + 1] == "idle_kicks"


def test_items_without_segments_have_no_figures_of_them() -> None:
    with node("-o", "no_lru_crawler,no_lru_maintainer") as server, server.client() as client:
        client.ask(b"set k 0 0 1\r\n1\r\n", b"STORED\r\n")
        keys = [name.split(":")[2] for name in client.stats("items")]
    assert "number_hot" not in keys
    assert keys[:3] == ["number", "age", "mem_requested"]


def test_no_sum_falls_while_workers_are_killed_and_ask() -> None:
    """Workers die in the middle of everything; whoever asks never sees a counter go back."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    draw = random.Random(seed)
    with node("-m", "16", workers=3) as server:
        stop = threading.Event()

        def load() -> None:
            numbers = random.Random(draw.random())
            while not stop.is_set():
                try:
                    with server.client() as client:
                        while not stop.is_set():
                            key = b"k%d" % numbers.randrange(20_000)
                            client.send(
                                b"set %s 0 100 %d\r\n%s\r\nget %s\r\ndelete none\r\n"
                                % (key, 500, b"v" * 500, key)
                            )
                            client.take_until(b"NOT_FOUND\r\n")
                except (OSError, AssertionError, EOFError):
                    continue

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            before: dict[str, int] = {}
            for kill in range(12):
                pids = server.worker_pids()
                victim = draw.choice(pids)
                os.kill(victim, signal.SIGKILL)
                wait_until(lambda: len(server.worker_pids()) == 3, "three workers")
                for _ in range(10):
                    with server.client() as client:
                        general = client.stats()
                        slabs = client.stats("slabs")
                    now = {name: int(general[name]) for name in COUNTERS}
                    for name in CLASS_COUNTERS:
                        now[f"by class {name}"] = sum(
                            int(value) for key, value in slabs.items() if key.endswith(":" + name)
                        )
                    fallen = {
                        name: (before[name], value)
                        for name, value in now.items()
                        if value < before.get(name, 0) - UNDONE.get(name, 0)
                    }
                    assert not fallen, f"after {kill + 1} kills: {fallen}"
                    before = now
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        with server.client() as client:
            general = client.stats()
        assert int(general["curr_connections"]) <= 2
        assert before["cmd_set"] > 100
