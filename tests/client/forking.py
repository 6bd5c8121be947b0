"""A program that uses a client, forks, and goes on using it on both sides: forking.py HOST:PORT.

It is a program of its own because a process in which pytest and scripted nodes have their threads
is none to fork.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable

from memcachepy.client import DiscoveryClient

KEYS = [f"key:{number}" for number in range(40)]
ROUNDS = 15


def check(client: DiscoveryClient) -> None:
    """Every answer is to one's own question."""
    for _ in range(ROUNDS):
        for key in KEYS:
            value = client.get(key)
            assert value == key.encode(), (key, value)
    assert client.get_many(KEYS) == {key: key.encode() for key in KEYS}
    assert [thread.name for thread in threading.enumerate()].count("memcachepy-poll") == 1
    assert client.polls.unanswered_count == 0


def fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid


def main() -> None:
    client = DiscoveryClient(
        sys.argv[1],
        poll_s=0.02,
        default_noreply=False,
        ignore_exc=False,
        connect_timeout=30.0,
        timeout=30.0,
    )
    assert threading.active_count() == 1  # A master that loads the application can fork in peace.
    client.set_many({key: key for key in KEYS})

    def parent_and_child() -> None:
        """A grandchild, too."""
        check(client)
        pid = fork(lambda: check(client))
        check(client)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            for key in KEYS:
                assert client.get(key) == key.encode()

    # Others are in the middle of requests, and the poller of a poll, when the fork comes.
    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    children = [fork(parent_and_child) for _ in range(4)]
    check(client)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    stop.set()
    for thread in threads:
        thread.join()
    check(client)
    client.close()
    assert statuses == [0] * len(children), statuses


main()
