"""Everything at once and at random: silent nodes, broken connections, lists that change."""

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from scripted import Connect, ScriptedNode, tell
from support.waiting import wait_until

from memcachepy.client.aio import DiscoveryClient as AioClient

StartCluster = Callable[..., list[ScriptedNode]]
EVENTS = 40
PAUSE_S = 0.03
USERS = 4
WAIT_S = 60.0
OPTIONS: dict[str, Any] = {
    "timeout": 0.2,
    "connect_timeout": 0.2,
    "poll_s": 0.05,
    "retry_timeout": 0.02,
    "dead_timeout": 0.1,
    "default_noreply": False,
}


class Disorder:
    """Changes nodes and their list at random; afterwards all is well again."""

    def __init__(self, nodes: list[ScriptedNode], rng: random.Random) -> None:
        self._nodes = nodes
        self._rng = rng
        self._version = 1

    def next(self) -> None:
        node = self._rng.choice(self._nodes)
        match self._rng.randrange(5):
            case 0:
                node.silent = not node.silent
            case 1:
                node.drop_connections()
            case 2:
                node.fragment_bytes = self._rng.choice([0, 1, 3, 100])
            case 3:
                self._version += 1
                some = self._rng.sample(self._nodes, self._rng.randint(1, len(self._nodes)))
                tell(self._version, some, *self._nodes)
            case _:
                node.answer = self._rng.choice([b"ERROR\r\n", b"CONFIG cluster 0 1\r\n", b"\r\n"])

    def end(self) -> None:
        for node in self._nodes:
            node.silent = False
            node.fragment_bytes = 0
        tell(self._version + 1, self._nodes)


def right(found: dict[Any, Any]) -> bool:
    return all(value == str(key).encode() for key, value in found.items())


def test_threads_get_right_values_or_misses(
    start_cluster: StartCluster, connect: Connect, rng: random.Random
) -> None:
    nodes = start_cluster(3)
    client = connect([node.endpoint for node in nodes], **OPTIONS)
    disorder = Disorder(nodes, rng)
    stop = threading.Event()
    wrong: list[object] = []
    served = [0] * USERS

    def use(number: int) -> None:
        keys = [f"{number}:{i}" for i in range(8)]
        try:
            while not stop.is_set():
                for key in keys:
                    client.set(key, key)
                    value = client.get(key)
                    if value not in (None, key.encode()):
                        wrong.append((key, value))
                if not right(client.get_many(keys)):
                    wrong.append(keys)
                client.delete(keys[0])
                served[number] += 1
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(USERS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(EVENTS):
            disorder.next()
            time.sleep(PAUSE_S)
        disorder.end()
        wait_until(
            lambda: (
                client.refresh()
                and all(s.breaker == "closed" for s in client.node_states().values())
            ),
            "all nodes to be used again",
            WAIT_S,
        )
        goal = [count + 2 for count in served]
        wait_until(
            lambda: all(a >= b for a, b in zip(served, goal, strict=True)), "everybody", WAIT_S
        )
    finally:
        stop.set()
        for thread in threads:
            thread.join(WAIT_S)
    assert wrong == []
    assert len(client.nodes) == 3


def test_tasks_get_right_values_or_misses(start_cluster: StartCluster, rng: random.Random) -> None:
    nodes = start_cluster(3)
    disorder = Disorder(nodes, rng)

    async def test() -> None:
        stop = asyncio.Event()
        served = [0] * USERS

        async def use(client: AioClient, number: int) -> None:
            keys = [f"{number}:{i}" for i in range(8)]
            while not stop.is_set():
                for key in keys:
                    await client.set(key, key)
                    assert await client.get(key) in (None, key.encode())
                assert right(await client.get_many(keys))
                # One that is given up in the middle.
                cut_off = asyncio.create_task(client.get_many(keys))
                for _ in range(rng.randrange(4)):
                    await asyncio.sleep(0)
                cut_off.cancel()
                await asyncio.wait([cut_off])
                served[number] += 1

        async def until(condition: Callable[[], Any]) -> None:
            async with asyncio.timeout(WAIT_S):
                while not condition():
                    await asyncio.sleep(0.01)

        async with (
            AioClient([node.endpoint for node in nodes], **OPTIONS) as client,
            asyncio.TaskGroup() as tasks,
        ):
            for number in range(USERS):
                tasks.create_task(use(client, number))
            for _ in range(EVENTS):
                disorder.next()
                await asyncio.sleep(PAUSE_S)
            disorder.end()
            await until(lambda: len(client.nodes) == 3)
            await until(lambda: all(s.breaker == "closed" for s in client.node_states().values()))
            goal = [count + 2 for count in served]
            await until(lambda: all(a >= b for a, b in zip(served, goal, strict=True)))
            stop.set()

    asyncio.run(test())
