"""The cache that Django sites configure."""

import importlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from scripted import ScriptedNode

StartCluster = Callable[..., list[ScriptedNode]]


@pytest.fixture
def backend() -> Iterator[ModuleType]:
    django = pytest.importorskip("django", reason="NOT RUN: Django is not installed")
    conf = importlib.import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(CACHES={"default": {"BACKEND": "unused"}}, USE_TZ=True)
    django.setup()
    module = importlib.import_module("memcachepy.client.django")
    yield module
    for client in module._shared.values():
        client.close()
    module._shared.clear()


def test_django_uses_the_cluster(backend: ModuleType, start_cluster: StartCluster) -> None:
    nodes = start_cluster(3)
    cache: Any = backend.DiscoveryCache(nodes[0].endpoint, {"OPTIONS": {"timeout": 20.0}})
    cache.set("key", {"a": [1, None]}, 60)
    assert cache.get("key") == {"a": [1, None]}
    assert cache.add("größe", 1)
    assert cache.incr("größe") == 2
    cache.set_many({f"key:{i}": i for i in range(30)})
    assert cache.get_many([f"key:{i}" for i in range(40)]) == {f"key:{i}": i for i in range(30)}
    assert all(node.connections == 1 for node in nodes)
    cache.close()
    assert all(node.connections == 1 for node in nodes)
    cache.delete_many(["key:1"])
    assert cache.get("key:1", "gone") == "gone"
    with pytest.raises(ValueError, match="not found"):
        cache.incr("absent")
    cache.clear()
    assert cache.get("key") is None


def test_threads_and_aliases_of_one_configuration_share_a_client(
    backend: ModuleType, start_cluster: StartCluster
) -> None:
    endpoint = start_cluster(1)[0].endpoint
    caches: list[Any] = []

    def use() -> None:
        caches.append(backend.DiscoveryCache(endpoint, {}))
        caches[-1].set("key", "value")

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
        thread.join()
    assert len({id(cache._cache) for cache in caches}) == 1
    other = backend.DiscoveryCache(endpoint, {"OPTIONS": {"key_prefix": "other"}})
    assert other._cache is not caches[0]._cache
    assert other.get("key") is None
