"""Binary packets over sockets as clients use them: many at a time, large values, slow readers."""

import random
import threading

import pytest
from support.binary import Reply, arith, hit, replies, request, store, touch
from support.client import RawClient
from support.server import Server


def _answers(client: RawClient, count: int) -> list[Reply]:
    while len(found := replies(bytes(client.buffer))[0]) < count:
        assert client.more()
    return found


def test_increments_of_many_connections_are_all_counted(server: Server) -> None:
    connections, rounds = 8, 300
    errors: list[BaseException] = []
    with RawClient(server.address) as client:
        client.send(store("set", b"count", b"0"))
        client.take(24)

    def increment() -> None:
        try:
            with RawClient(server.address) as client:
                client.send(arith("incrq", b"count", 1) * rounds + request("noop"))
                client.take(24)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=increment) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    with RawClient(server.address) as client:
        client.send(arith("incr", b"count", 0))
        assert int.from_bytes(client.take(32)[24:], "big") == connections * rounds


def test_both_protocols_see_the_same_items(server: Server) -> None:
    with RawClient(server.address) as text, RawClient(server.address) as binary:
        text.ask(b"set both 5 0 4\r\nfrom\r\n", b"STORED\r\n")
        text.send(b"gets both\r\n")
        cas = int(text.line().split()[-1])
        text.expect(b"from\r\nEND\r\n")
        binary.send(request("get", b"both"))
        assert _answers(binary, 1) == [hit("get", b"from", client_flags=5, cas=cas)]
        binary.send(store("setq", b"both", b"back", client_flags=6, cas=cas) + request("noop"))
        binary.take(24 + 4 + 4 + 24)
        text.ask(b"get both\r\n", b"VALUE both 6 4\r\nback\r\nEND\r\n")


@pytest.mark.parametrize("name", ["get", "gat"])
def test_a_slow_reader_gets_values_as_they_were(server: Server, name: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    value = random.Random(seed).randbytes(3 << 20)
    count = 5
    packet = request("get", b"slow") if name == "get" else touch("gat", b"slow", 1000)
    with RawClient(server.address) as other, RawClient(server.address, timeout_s=30) as reader:
        other.send(store("set", b"slow", value))
        (stored,) = _answers(other, 1)
        other.take(24)
        reader.send(packet * count + request("noop", opaque=1))
        expected = hit(name, value, cas=stored.cas)
        head = reader.take(28)
        # The rest is taken from where it lies, after it was overwritten and deleted.
        other.send(store("setq", b"slow", b"new") + request("deleteq", b"slow") + request("noop"))
        other.take(24)
        found, rest = replies(head + reader.take(len(value)))
        assert found == [expected]
        assert rest == b""
        later = _answers(reader, 1)
        assert later[0] in (expected, Reply(name, 1, value=b"Not found"))
        while reader.buffer[-24:] != request("noop", opaque=1, magic=0x81):
            assert reader.more()


def test_pipelined_gets_of_large_values_come_whole_and_in_order(server: Server) -> None:
    values = {b"p%d" % i: bytes([i]) * (100_000 + i * 30_000) for i in range(20)}
    with RawClient(server.address, timeout_s=30) as client:
        client.send(b"".join(store("setq", key, value) for key, value in values.items()))
        names = [random.Random(i).choice(list(values)) for i in range(100)]
        client.send(b"".join(request("getkq", name) for name in names) + request("noop"))
        for name in names:
            (reply,), _ = replies(client.take(24 + 4 + len(name) + len(values[name])))
            assert (reply.name, reply.key) == ("getkq", name)
            assert reply.value == values[name]
        assert client.take(24) == request("noop", magic=0x81)
