"""Measure server CPU per request against memcached and the floor; write a file of results.

Each scenario starts all servers on one core and loads them in turns from another, five rounds or
more. What is compared within a round was measured within seconds of each other; `report.py` takes
the medians of the rounds.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scenarios import CONNECTION_COUNT, OWN_GETS, SCENARIOS, Scenario
from servers import (
    BenchError,
    Memory,
    Server,
    build_floor,
    free_port,
    memcached_version,
    server_command,
)

from memcachepy import __version__, _load

RESULTS = Path(__file__).parent / "results"
KINDS = ("memcached", "memcachepy", "floor")
WARMUP_S = 0.5


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    here = str(Path(__file__).parent)
    commit = _output("git", "-C", here, "rev-parse", "--short=12", "HEAD")
    changed = _output("git", "-C", here, "status", "--porcelain", "--untracked-files=no")
    return commit + (" with changes" if changed else "")


def describe_machine(*, needs_memcached: bool = True) -> dict[str, Any]:
    """What a reader needs to judge the figures."""
    has_memcached = needs_memcached or shutil.which("memcached") is not None
    return {
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
        "python": platform.python_version(),
        "compiler": _output(shutil.which("cc") or "cc", "--version").partition("\n")[0],
        "memcached": memcached_version() if has_memcached else "no memcached",
        "memcachepy": __version__,
        "commit": _commit(),
    }


def _busy_s() -> float:
    """CPU time that all processes and the kernel have used, over all CPUs."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def _load_server(server: Server, scenario: Scenario, duration_s: float, kind: str) -> Any:
    settings = scenario.settings(kind) | server.target()
    settings |= {"duration_ms": round(duration_s * 1000)}
    try:
        return _load.run(settings)["load"]
    except _load.LoadError as error:
        raise BenchError(
            f"{scenario.name}: {server.kind}: {error}; it wrote: {server.log()[-2000:]}"
        ) from None


def prefill(server: Server, scenario: Scenario) -> None:
    """Set every key, and read until all of them are certainly there."""
    settings = scenario.settings(server.kind) | server.target()
    settings |= {"prefill": 1, "reconnect": 0, "request_count": 1000, "duration_ms": 0}
    results = _load.run(settings)
    filled = results["prefill"]
    assert filled is not None
    if filled["stored"] != scenario.key_count:
        raise BenchError(
            f"{server.kind} stored {filled['stored']} of {scenario.key_count} keys:"
            f" {filled['error_sample']}"
        )


def measure(
    server: Server, scenario: Scenario, duration_s: float, kind: str = ""
) -> dict[str, Any]:
    """One server's part of a round, with the load of its own kind or of another."""
    kind = kind or server.kind
    _load_server(server, scenario, WARMUP_S, kind)
    busy_s = _busy_s()
    cpu_ns = server.cpu_ns()
    load = _load_server(server, scenario, duration_s, kind)
    cpu_s = (server.cpu_ns() - cpu_ns) / 1e9
    busy_s = _busy_s() - busy_s
    for trouble in ("errors", "misses", "lost_requests"):
        if load[trouble] and not (trouble == "misses" and server.kind == "floor"):
            raise BenchError(
                f"{scenario.name}: {server.kind} had {load[trouble]} {trouble}:"
                f" {load['error_sample']}"
            )
    requests = load["requests"]
    return {
        "requests": requests,
        "requests_per_s": round(requests / load["wall_s"]),
        "server_cpu_s": round(cpu_s, 6),
        "server_cpu_us_per_request": round(cpu_s / requests * 1e6, 4),
        "server_cpu_share": round(cpu_s / load["wall_s"], 3),
        "generator_cpu_share": round(load["generator_cpu_s"] / load["wall_s"], 3),
        "other_cpu_share": round(
            max(busy_s - cpu_s - load["generator_cpu_s"], 0) / load["wall_s"], 3
        ),
        "latency_us": {name: round(value, 1) for name, value in load["latency_us"].items()},
    }


@contextlib.contextmanager
def running(
    kinds: tuple[str, ...], scenario: Scenario, cpu: int, floor: Path
) -> Iterator[list[Server]]:
    """The servers of one scenario, all on one CPU, idle but for the one being loaded."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        servers = []
        for kind in kinds:
            address = f"{folder}/{kind}.sock" if scenario.unix else str(free_port())
            command = server_command(kind, address, scenario.memory_mb, floor)
            servers.append(stack.enter_context(Server(kind, command, address, cpu)))
        yield servers


def run_scenario(
    scenario: Scenario, kinds: tuple[str, ...], args: argparse.Namespace, floor: Path
) -> dict[str, Any]:
    """All rounds of one scenario."""
    rounds = []
    with running(kinds, scenario, args.server_cpu, floor) as servers:
        for server in servers:
            prefill(server, scenario)
        for number in range(args.rounds):
            # Another one begins each round, so that none always follows the same.
            first = number % len(servers)
            order = servers[first:] + servers[:first]
            rounds.append({s.kind: measure(s, scenario, args.duration) for s in order})
            for server in servers:
                if scenario.against_get and server.kind == "memcachepy":
                    gets = measure(server, scenario, args.duration, OWN_GETS)
                    rounds[-1][OWN_GETS] = gets
            figures = "  ".join(
                f"{kind} {rounds[-1][kind]['server_cpu_us_per_request']:.3f} us" for kind in kinds
            )
            _say(f"{scenario.name:12} round {number + 1}/{args.rounds}  {figures}")
    return {
        "name": scenario.name,
        "title": scenario.title,
        "bar": scenario.bar,
        "goal": scenario.goal,
        "rounds": rounds,
    }


def measure_memory(
    kinds: tuple[str, ...], args: argparse.Namespace, floor: Path
) -> dict[str, dict[str, Any]]:
    """Private dirty memory of each server in the middle of a mixed load."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == "mix")
    found = {}
    with running(kinds, scenario, args.server_cpu, floor) as servers:
        for server in servers:
            prefill(server, scenario)
            samples: list[Memory] = []

            def sample(
                _phase: str,
                elapsed_s: float,
                _requests: int,
                _errors: int,
                server: Server = server,
                samples: list[Memory] = samples,
            ) -> None:
                if elapsed_s > 1 and not samples:
                    samples.append(server.memory())

            settings = scenario.settings(server.kind) | server.target()
            _load.run(settings | {"duration_ms": 2000}, sample)
            found[server.kind] = {
                "connections": CONNECTION_COUNT,
                "worker_private_dirty_bytes": samples[0].worker_bytes,
                "process_private_dirty_bytes": list(samples[0].by_pid.values()),
            }
            _say(f"memory       {server.kind} {found[server.kind]}")
    return found


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="at least five for a published run")
    parser.add_argument("--duration", type=float, default=2.0, help="seconds of each load")
    parser.add_argument("--servers", default=",".join(KINDS), help="which ones, comma separated")
    parser.add_argument("--scenarios", default="", help="names, comma separated; default all")
    parser.add_argument("--server-cpu", type=int, default=0)
    parser.add_argument("--generator-cpu", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory figures")
    parser.add_argument("--output", type=Path, help="default: results/DATE.json beside this file")
    args = parser.parse_args(arguments)
    args.servers = tuple(args.servers.split(","))
    names = [scenario.name for scenario in SCENARIOS]
    args.scenarios = args.scenarios.split(",") if args.scenarios else names
    for name in args.scenarios:
        if name not in names:
            parser.error(f"--scenarios: {name} is none of {', '.join(names)}")
    for kind in args.servers:
        if kind not in KINDS:
            parser.error(f"--servers: {kind} is none of {', '.join(KINDS)}")
    if args.rounds < 1 or args.duration <= 0:
        parser.error("--rounds must be 1 or more, --duration more than 0")
    if not {args.server_cpu, args.generator_cpu} <= os.sched_getaffinity(0):
        parser.error(f"the usable CPUs are {sorted(os.sched_getaffinity(0))}")
    if args.server_cpu == args.generator_cpu:
        parser.error("server and generator need different CPUs")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; 1 and a sentence when it cannot be done."""
    args = _parse(arguments)
    os.sched_setaffinity(0, {args.generator_cpu})
    started = datetime.datetime.now(datetime.UTC)
    results: dict[str, Any] = {
        "started_at": started.isoformat(timespec="seconds"),
        "rounds": args.rounds,
        "duration_s": args.duration,
    }
    begin_s = time.monotonic()
    try:
        results["machine"] = describe_machine()
        with tempfile.TemporaryDirectory(prefix="bench-floor-") as folder:
            floor = build_floor(Path(folder))
            results["scenarios"] = [
                run_scenario(scenario, args.servers, args, floor)
                for scenario in SCENARIOS
                if scenario.name in args.scenarios
            ]
            if not args.no_memory:
                results["memory"] = measure_memory(args.servers, args, floor)
    except (BenchError, _load.LoadError, subprocess.CalledProcessError) as error:
        _say(f"bench: {error}")
        return 1
    results["took_s"] = round(time.monotonic() - begin_s, 1)
    output = args.output or RESULTS / f"{started:%Y-%m-%d-%H%M%S}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
