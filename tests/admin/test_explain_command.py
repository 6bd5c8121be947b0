"""`memcachepy explain` as a person or a script asks it; all the reasons are in tests/core."""

import json
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_support import json_of, memcachepy
from support.server import Server, node

from memcachepy.admin.explain import duration, sentence
from memcachepy.node.rendezvous import encode


@pytest.fixture
def control() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="memcachepy-") as folder:
        yield Path(folder) / "control"


@pytest.fixture
def server(control: Path) -> Iterator[Server]:
    with node("--control-socket", str(control), workers=2) as server:
        yield server


def explain(control: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return memcachepy("explain", *arguments, "--control-socket", control)


def test_a_stored_key_is_described(server: Server, control: Path) -> None:
    with server.client() as client:
        client.ask(b"set k 7 1000 5\r\nhello\r\n", b"STORED\r\n")
    done = explain(control, "k")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("k is stored: 5 bytes of value, 38 with key and header, in slab")
    assert "client flags 7; expires in 16 minutes; not asked for yet" in done.stdout
    report = json_of(explain(control, "k", "--json"))
    assert (report["key"], report["state"], report["value_len"]) == ("k", "stored", 5)


def test_an_absent_key_has_its_reason_and_a_status_of_its_own(
    server: Server, control: Path
) -> None:
    with server.client() as client:
        client.ask(b"set k 0 0 1\r\na\r\ndelete k\r\n", b"STORED\r\nDELETED\r\n")
        client.ask(b"set f 0 0 1\r\na\r\nflush_all\r\n", b"STORED\r\nOK\r\n")
    done = explain(control, "k")
    assert done.returncode == 1
    assert "k is not there: it was deleted " in done.stdout
    assert "It was never asked for after it was stored." in done.stdout
    assert "it was flushed" in explain(control, "f").stdout
    assert "never stored, or gone before" in explain(control, "nobody").stdout
    assert json_of(explain(control, "nobody", "--json"))["state"] == "unknown"


def test_binary_keys_are_given_in_base64(server: Server, control: Path) -> None:
    with server.client() as client:
        client.ask(b"set \xff\x01 0 0 1\r\na\r\n", b"STORED\r\n")
    assert explain(control, "--base64", "/wE=").returncode == 0
    done = explain(control, "--base64", "no base64")
    assert (done.returncode, "is not base64" in done.stderr) == (64, True)


@pytest.mark.parametrize("key", ["", "k" * 251])
def test_a_key_that_cannot_be_is_refused(control: Path, key: str) -> None:
    done = explain(control, key)
    assert done.returncode == 64
    assert "a key has 1 to 250 bytes" in done.stderr


def test_no_node_is_said_in_a_sentence(control: Path) -> None:
    done = explain(control, "k")
    assert done.returncode == 69
    assert f"memcachepy: no node answers at {control}" in done.stderr


@pytest.mark.parametrize("key", ["", "no base64", "a" * 360, 5, None])
def test_the_node_refuses_what_is_no_key(server: Server, control: Path, key: object) -> None:
    assert server.pid
    with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rb") as lines:
        connection.settimeout(10)
        connection.connect(str(control))
        connection.sendall(encode({"op": "explain", "key": key}))
        answer = json.loads(lines.readline())
        assert (answer["ok"], "error" in answer) == (False, True)
        connection.sendall(encode({"op": "status"}))
        assert json.loads(lines.readline())["ok"] is True


def test_a_busy_shard_is_asked_again(control: Path) -> None:
    answers = [{"ok": True, "state": "busy", "shard": 0}, {"ok": True, "state": "expired"}]
    answers[1] |= {"ttl_s": 5}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(control))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                for one in answers:
                    request = json.loads(lines.readline())
                    assert request["op"] == "explain"
                    connection.sendall(encode(one))

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            done = explain(control, "k")
        finally:
            thread.join()
    assert done.stdout == (
        "k is not there: it expired 5 seconds ago; its memory is not reclaimed yet.\n"
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("deleted", "it was deleted 3 hours ago"),
        ("refused", "a set that the node refused"),
        ("expired", "it expired 3 hours ago"),
        ("flushed", "it was flushed, and reclaimed 3 hours ago"),
        ("evicted_probation", "from probation"),
        ("evicted_main", "from the main part"),
        ("evicted_page_move", "its page went to another slab class"),
        ("evicted_donation", "its page went to another shard"),
        ("evicted_table", "its page went to the hash table"),
        ("evicted_shrink", "its page went back to the host"),
    ],
)
def test_every_departure_has_words(how: str, words: str) -> None:
    answer = {"state": "gone", "how": how, "ago_s": 10_900, "fetched": True}
    said = sentence("k", answer)
    assert words in said
    assert "3 hours ago" in said
    assert said.endswith("It was asked for after it was stored.")


def test_the_ghost_knows_more() -> None:
    answer = {"state": "unknown", "in_ghost": True, "remembers_s": 300}
    assert "probably evicted more than 5 minutes ago" in sentence("k", answer)


def test_durations_are_in_the_largest_unit_of_which_there_are_two() -> None:
    given = [0, 1, 2, 119, 120, 7199, 7200, 172_799, 172_800]
    assert [duration(seconds) for seconds in given] == [
        "0 seconds", "1 second", "2 seconds", "119 seconds", "2 minutes", "119 minutes",
        "2 hours", "47 hours", "2 days",
    ]  # fmt: skip
