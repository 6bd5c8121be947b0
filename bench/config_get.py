"""What `config get cluster` costs against a `get` of as many bytes: server CPU per request.

    .venv/bin/python bench/config_get.py [--rounds 7] [--duration 1] [--json]

One node with one worker, loaded from another CPU over 20 connections. Both commands, and `get
AmazonElastiCache:cluster`, are asked in turns, in every round from another one on; a ratio is of
one round, the median of the rounds is shown. The load is made in Python: what is measured is the
server's CPU time, not how much of it can be had.
"""

import argparse
import json
import os
import selectors
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from servers import Server, free_port, server_command

CONNECTION_COUNT = 20
WARMUP_S = 0.2
VALUE_BYTES = (62, 4000)
PIPELINES = (1, 16)
BAR = 1.2
KINDS = {
    "get": b"get %s\r\n" % (b"k" * 14),
    "config get": b"config get cluster\r\n",
    "older get": b"get AmazonElastiCache:cluster\r\n",
}


def _ask(connection: socket.socket, request: bytes, end: bytes) -> bytes:
    connection.sendall(request)
    answer = b""
    while not answer.endswith(end):
        answer += connection.recv(1 << 16)
    return answer


def prepare(connection: socket.socket, value_bytes: int) -> None:
    """Store an item and a list of so many bytes."""
    value = (b"1\n" + b"n" * value_bytes)[: value_bytes - 1] + b"\n"
    for line in (b"set %s 0 0" % (b"k" * 14), b"config set cluster 0"):
        request = b"%s %d\r\n%s\r\n" % (line, len(value), value)
        answer = _ask(connection, request, b"\r\n")
        assert answer == b"STORED\r\n", answer


def load(
    connections: list[socket.socket], request: bytes, answer_bytes: int, duration_s: float
) -> int:
    """Ask over all connections, each again as soon as it is answered; how many times in all."""
    with selectors.DefaultSelector() as selector:
        missing = dict.fromkeys(connections, answer_bytes)
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(request)
        count = 0
        stop_s = time.monotonic() + duration_s
        while missing:
            for key, _ in selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                missing[connection] -= len(connection.recv(1 << 18))
                if missing[connection] > 0:
                    continue
                count += 1
                if time.monotonic() < stop_s:
                    missing[connection] = answer_bytes
                    connection.sendall(request)
                else:
                    del missing[connection]
                    selector.unregister(connection)
    return count


def measure(
    server: Server, connections: list[socket.socket], kind: str, pipeline: int, duration_s: float
) -> float:
    """CPU microseconds of the server for each request."""
    answer = _ask(connections[0], KINDS[kind], b"END\r\n")
    request, answer_bytes = KINDS[kind] * pipeline, len(answer) * pipeline
    load(connections, request, answer_bytes, WARMUP_S)
    before_ns = server.cpu_ns()
    count = load(connections, request, answer_bytes, duration_s)
    return (server.cpu_ns() - before_ns) / 1e3 / (count * pipeline)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of each load")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.generator_cpu})
    address = str(free_port())
    command = server_command("memcachepy", address, 64, Path(tempfile.gettempdir()))
    found = []
    with Server("memcachepy", command, address, args.server_cpu) as server, ExitStack() as open_:
        connections = [
            open_.enter_context(socket.create_connection(("127.0.0.1", int(address))))
            for _ in range(CONNECTION_COUNT)
        ]
        for value_bytes in VALUE_BYTES:
            prepare(connections[0], value_bytes)
            for pipeline in PIPELINES:
                rounds = []
                for turn in range(args.rounds):
                    kinds = list(KINDS)
                    kinds = kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]
                    rounds.append(
                        {
                            kind: measure(server, connections, kind, pipeline, args.duration)
                            for kind in kinds
                        }
                    )
                row: dict[str, float] = {"value_bytes": value_bytes, "pipeline": pipeline}
                for kind in KINDS:
                    row[f"{kind}, us"] = statistics.median(one[kind] for one in rounds)
                    row[f"{kind}, ratio"] = statistics.median(
                        one[kind] / one["get"] for one in rounds
                    )
                found.append(row)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    for row in found:
        times = ", ".join(
            f"{kind} {row[f'{kind}, us']:.2f} us ({row[f'{kind}, ratio']:.2f})" for kind in KINDS
        )
        print(f"{row['value_bytes']} bytes, {row['pipeline']} at a time: {times} (bar: {BAR})")


if __name__ == "__main__":
    main()
