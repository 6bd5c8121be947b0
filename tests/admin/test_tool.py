"""`memcachepy tool`: memcached-tool's views of nodes and of memcached."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from admin_support import Item, ServerMaker, address_of, json_of, memcachepy, store
from support.server import Server

from memcachepy.admin.client import Address
from memcachepy.errors import ConfigError

MEMCACHED_TOOL = Path("/usr/share/memcached/scripts/memcached-tool")
ITEMS = [Item(b"user:1", b"x" * 100), Item(b"user:2", b"y" * 5000, 3, 1000), Item(b"page", b"")]


@pytest.fixture
def filled(server: Server) -> Server:
    store(server, ITEMS)
    return server


def tool(*arguments: str) -> str:
    done = memcachepy("tool", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def memcached_tool(server: Server, mode: str) -> str:
    """What the script of Debian's package prints, without its carriage returns."""
    if not MEMCACHED_TOOL.exists() or shutil.which("perl") is None:
        pytest.skip("NOT COMPARED with memcached-tool: it is not installed")
    done = subprocess.run(
        ["perl", str(MEMCACHED_TOOL), address_of(server), mode],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return done.stdout.replace(b"\r", b"").decode()


@pytest.mark.parametrize("mode", ["display", "settings", "sizes"])
def test_views_have_memcached_tools_columns(filled: Server, mode: str) -> None:
    ours, theirs = tool(address_of(filled), mode), memcached_tool(filled, mode)
    assert _without_ages(ours) == _without_ages(theirs)


def _without_ages(text: str) -> str:
    """A second may pass between two calls; the column stays as wide."""
    return re.sub(r" *\d+s ", lambda age: "s".rjust(len(age[0])), text)


def test_stats_have_memcached_tools_columns(filled: Server) -> None:
    """Numbers move between two calls; names and columns do not."""

    def shape(text: str) -> list[tuple[str, int]]:
        return [(line.split()[0], len(line) > 40) for line in text.splitlines()]

    assert shape(tool(address_of(filled), "stats")) == shape(memcached_tool(filled, "stats"))


def test_keys_are_metadumps_lines(filled: Server) -> None:
    lines = tool(address_of(filled), "keys").splitlines()
    assert {line.split()[0] for line in lines} == {"key=user%3A1", "key=user%3A2", "key=page"}
    theirs = memcached_tool(filled, "keys").splitlines()
    assert sorted(lines) == sorted(line.rstrip() for line in theirs)
    assert len(tool(address_of(filled), "keys", "2").splitlines()) == 2


def test_keys_with_a_prefix_come_with_ttl_and_size(filled: Server) -> None:
    heading, *rows = tool("keys", address_of(filled), "--prefix", "user:").splitlines()
    assert heading.split() == ["TTL", "Size", "Key"]
    found = {key: (ttl, int(size)) for ttl, size, key in map(str.split, rows)}
    assert set(found) == {"user:1", "user:2"}
    assert found["user:1"][0] == "never"
    assert 990 <= int(found["user:2"][0]) <= 1000
    assert found["user:2"][1] > 5000
    lines = tool("keys", address_of(filled), "--prefix", "page", "--json").splitlines()
    (page,) = map(json.loads, lines)
    assert (page["key"], page["expire_at_s"], page["fetched"]) == ("page", 0, False)


def test_dump_writes_commands_that_store_the_items(filled: Server, serve: ServerMaker) -> None:
    done = memcachepy("tool", address_of(filled), "dump")
    assert (done.returncode, done.stderr) == (0, "")
    text = done.stdout
    assert "add user:1 0 0 100\n" in text.replace("\r\n", "\n")
    other = serve("memcached")
    with other.client() as client:
        client.send(text.replace("\n", "\r\n").encode())
        assert [client.line() for _ in ITEMS] == [b"STORED"] * 3
        client.ask(b"get page\r\n", b"VALUE page 0 0\r\n\r\nEND\r\n")


def test_json_has_what_the_columns_have(filled: Server) -> None:
    address = address_of(filled)
    slabs = json_of(memcachepy("tool", address, "--json"))
    assert sum(of["number"] for of in slabs.values()) == 3
    assert json_of(memcachepy("tool", address, "stats", "--json"))["curr_items"] == "3"
    assert "maxbytes" in json_of(memcachepy("tool", "settings", address, "--json"))


def test_mode_and_server_may_change_places(filled: Server) -> None:
    address = address_of(filled)
    shown = {_without_ages(tool(*words)) for words in ((address, "display"), ("display", address))}
    assert shown == {_without_ages(tool(address))}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("nowhere:1", "move"), "move is not one of display, stats"),
        (("nowhere:1", "keys", "0"), "0 is no limit"),
        (("nowhere:1", "stats", "5"), "5 is too much"),
        (("nowhere:99999",), "the port must be 1 to 65535"),
        (("stats", "--prefix", "a"), "--prefix is for keys and dump"),
    ],
)
def test_wrong_words_are_named(words: tuple[str, ...], sentence: str) -> None:
    done = memcachepy("tool", *words)
    assert (done.returncode, done.stdout) == (64, "")
    assert sentence in done.stderr


def test_a_server_that_refuses_is_quoted(serve: ServerMaker) -> None:
    server = serve("memcached", "-X")
    done = memcachepy("tool", address_of(server), "keys")
    assert (done.returncode, done.stdout) == (1, "")
    assert "answers lru_crawler metadump all: ERROR metadump not allowed" in done.stderr


def test_addresses_are_of_four_forms() -> None:
    assert Address.parse("/run/s") == Address("", 0, "/run/s")
    assert Address.parse("host") == Address("host", 11211)
    assert Address.parse("host:1") == Address("host", 1)
    assert Address.parse(":1") == Address("127.0.0.1", 1)
    assert Address.parse("[::1]:2") == Address("::1", 2)
    assert Address.parse("fe80::1") == Address("fe80::1", 11211)
    for text in ("[::1]:2", "a:1", "./s"):
        assert str(Address.parse(text)) == text
    with pytest.raises(ConfigError, match="the port must be"):
        Address.parse("host:0")
