"""Django's two memcached backends, as a site configures them."""

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from adapter import needed
from support.server import Server

pytestmark = [
    pytest.mark.once,
    # pylibmc asks for what is not there in a way that Python 3.13 complains about.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in PyMapping_HasKeyString:pytest.PytestUnraisableExceptionWarning"
    ),
]

BACKENDS = {"PyMemcacheCache": "pymemcache", "PyLibMCCache": "pylibmc"}


@pytest.fixture(scope="session")
def django_caches() -> ModuleType:
    django = needed("django", "Django")
    conf = importlib.import_module("django.conf")
    if not conf.settings.configured:
        conf.settings.configure(CACHES={"default": {"BACKEND": "unused"}}, USE_TZ=True)
    django.setup()
    return importlib.import_module("django.core.cache.backends.memcached")


@pytest.fixture(params=BACKENDS)
def cache(
    request: pytest.FixtureRequest, django_caches: ModuleType, empty_server: Server
) -> Iterator[Any]:
    needed(BACKENDS[request.param], BACKENDS[request.param])
    backend = getattr(django_caches, request.param)
    cache = backend(
        f"127.0.0.1:{empty_server.port}",
        {"KEY_PREFIX": "site", "VERSION": 2, "TIMEOUT": 300},
    )
    yield cache
    cache.close()
    cache._cache.disconnect_all()


def test_objects_come_back(cache: Any) -> None:
    # (pylibmc gives an integer for a bool.)
    for value in ({"a": [1, 2.5, None]}, "text, größer", b"bytes", 42, None):
        cache.set("key", value)
        found = cache.get("key", "none")
        assert found == value
        assert type(found) is type(value)


def test_add_delete_and_default(cache: Any) -> None:
    assert cache.get("key", "default") == "default"
    assert cache.add("key", 1)
    assert not cache.add("key", 2)
    assert cache.get("key") == 1
    assert "key" in cache
    assert cache.delete("key")
    assert not cache.delete("key")


def test_many_keys_at_once(cache: Any) -> None:
    values = {f"key-{i}": {"i": i} for i in range(150)}
    assert cache.set_many(values) == []
    assert cache.get_many([*values, "none"]) == values
    cache.delete_many(list(values))
    assert cache.get_many(list(values)) == {}


def test_counting(cache: Any) -> None:
    cache.set("n", 10)
    assert cache.incr("n") == 11
    assert cache.decr("n", 5) == 6
    with pytest.raises(ValueError, match="none"):
        cache.incr("none")


def test_touch_and_timeouts(cache: Any) -> None:
    cache.set("key", 1, timeout=None)
    assert cache.touch("key", 1000)
    assert cache.get("key") == 1
    assert not cache.touch("none", 1000)
    cache.set("key", 1, timeout=0)
    assert cache.get("key") is None
    # Beyond thirty days Django sends the moment, not the seconds.
    cache.set("key", 1, timeout=60 * 60 * 24 * 60)
    assert cache.get("key") == 1


def test_versions_are_other_keys(cache: Any) -> None:
    cache.set("key", "two")
    cache.set("key", "three", version=3)
    assert cache.get("key") == "two"
    assert cache.get("key", version=3) == "three"
    assert cache.incr_version("key") == 3
    assert cache.get("key", version=3) == "two"


def test_get_or_set(cache: Any) -> None:
    assert cache.get_or_set("key", lambda: "made") == "made"
    assert cache.get_or_set("key", lambda: "not made") == "made"


def test_a_value_that_is_too_large_takes_the_old_one_along(cache: Any) -> None:
    cache.set("key", "before")
    # What the client raises is its own; what matters is that no old value is served.
    with contextlib.suppress(Exception):
        cache.set("key", b"x" * 2_000_000)
    assert cache.get("key") is None
    cache.set("key", "after")
    assert cache.get("key") == "after"


def test_clear(cache: Any) -> None:
    cache.set("key", 1)
    cache.clear()
    assert cache.get("key") is None
