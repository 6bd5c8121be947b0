"""What Prometheus' memcached_exporter reads is there, and parses: `up 1` with every metric."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.client import RawClient
from support.server import Server, node

pytestmark = pytest.mark.once

KEYS = [
    tuple(line.split())
    for line in Path(__file__).with_name("exporter_keys.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

PARSED = {
    "number": re.compile(r"[0-9]+(\.[0-9]+)?"),
    "seconds.microseconds": re.compile(r"[0-9]+\.[0-9]{6}"),
    "bool": re.compile(r"yes|no"),
    "text": re.compile(r"[^ ]+"),
}


@pytest.fixture(scope="module")
def busy() -> Iterator[Server]:
    """A node that has been used a little."""
    with node(workers=2) as server:
        with server.client() as client:
            for size in (1, 1000, 300_000):
                client.ask(b"set k%d 0 0 %d\r\n%s\r\n" % (size, size, b"1" * size), b"STORED\r\n")
            client.ask(b"incr k1 1\r\n", b"2\r\n")
            client.ask(b"get none\r\n", b"END\r\n")
        yield server


def replies(client: RawClient, part: str) -> list[list[str]]:
    """The lines of a reply as the exporter splits them: at single spaces."""
    client.send(f"stats {part}".rstrip().encode() + b"\r\n")
    lines = []
    while (line := client.line()) != b"END":
        lines.append(line.decode().split(" "))
    return lines


def of_class(lines: list[list[str]], class_at: int) -> dict[str, dict[str, str]]:
    """Values by class and key; the name has its class at this place."""
    classes: dict[str, dict[str, str]] = {}
    for _, name, value in lines:
        words = name.split(":")
        if len(words) == class_at + 2:
            classes.setdefault(words[class_at], {})[words[-1]] = value
    return classes


@pytest.mark.parametrize(("part", "key", "kind"), KEYS)
def test_the_exporter_finds_and_parses(busy: Server, part: str, key: str, kind: str) -> None:
    with busy.client() as client:
        lines = replies(client, "" if part == "stats" else part)
    if part in ("slabs", "items") and key != "total_malloced":
        classes = of_class(lines, 0 if part == "slabs" else 1)
        assert len(classes) >= 3
        found = [values[key] for values in classes.values()]
    else:
        found = [value for _, name, value in lines if name == key]
        assert len(found) == 1
    assert all(PARSED[kind].fullmatch(value) for value in found), found


@pytest.mark.parametrize("part", ["", "slabs", "items", "settings"])
def test_every_line_has_three_words_and_classes_are_numbers(busy: Server, part: str) -> None:
    """The exporter gives up on a line of `settings` that has not, and on a class that is none."""
    with busy.client() as client:
        lines = replies(client, part)
    assert lines
    for line in lines:
        assert len(line) == 3, line
        words = line[1].split(":")
        if len(words) == 2:
            assert words[0].isdigit(), line
        elif len(words) == 3:
            assert words[1].isdigit(), line


def test_sets_less_cas_are_never_negative(busy: Server) -> None:
    """The exporter subtracts cas commands from sets, in all and by class."""
    with busy.client() as client:
        for _ in range(3):
            client.ask(b"cas k1 0 0 1 1\r\n5\r\n", b"EXISTS\r\n")
        stats = client.stats()
        slabs = of_class(replies(client, "slabs"), 0)
    cas = sum(int(stats[f"cas_{result}"]) for result in ("hits", "misses", "badval"))
    assert int(stats["cmd_set"]) - cas == 3
    assert all(
        int(values["cmd_set"]) >= int(values["cas_hits"]) + int(values["cas_badval"])
        for values in slabs.values()
    )
