"""`memcachepy bench`: load a memcached-speaking server and say how it did."""

import contextlib
import datetime
import ipaddress
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import click

from memcachepy import __version__, _load
from memcachepy.errors import MemcachepyError

DEFAULT_TARGET = "127.0.0.1:11211"
DEFAULT_PORT = 11211

CPU_SHARE_BOUND = 0.95
"""Above this share of a core the generator may have been what was measured."""
LATE_SHARE_BOUND = 0.01
"""Above this share of late sends the offered rate was not the one asked for."""

_OPTIONS = {
    "connection_count": "--connections",
    "pipeline_depth": "--pipeline",
    "keys_per_get": "--multi-get",
    "set_share": "--ratio",
    "get_share": "--ratio",
    "key_count": "--keys",
    "key_bytes": "--key-size",
    "key_prefix": "--key-prefix",
    "zipf_exponent": "--zipf",
    "value_bytes_min": "--value-size",
    "value_bytes_max": "--value-size",
    "exptime": "--exptime",
    "rate_per_s": "--rate",
    "duration_ms": "--duration",
    "request_count": "--requests",
    "warmup_ms": "--warmup",
    "timeout_ms": "--timeout",
    "seed": "--seed",
    "meta": "--meta",
    "reconnect": "--reconnect",
    "address": "TARGET",
    "port": "TARGET",
}
"""Which option sets a setting of the generator, for messages."""


def _in_range(setting: str, value: int, text: str) -> int:
    smallest, largest, _ = _load.SETTINGS[setting]
    if not smallest <= value <= largest:
        raise click.BadParameter(f"{text} is not in the range {smallest} to {largest}")
    return value


def _whole(setting: str) -> click.IntRange:
    smallest, largest, _ = _load.SETTINGS[setting]
    return click.IntRange(smallest, largest)


def _seconds(setting: str) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """A callback that takes seconds with a fraction as milliseconds in a setting's range."""
    smallest, largest, _ = _load.SETTINGS[setting]

    def convert(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            number_ms = float(text) * 1000
        except ValueError:
            raise click.BadParameter(f"{text} is not a number of seconds") from None
        if not smallest <= number_ms <= largest:
            raise click.BadParameter(
                f"{text} is not in the range {smallest / 1000:g} to {largest / 1000:g}"
            )
        return round(number_ms)

    return convert


def _ratio(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        raise click.BadParameter(f"{text} is not of the form SETS:GETS, as in 1:10")
    sets, gets = int(match[1]), int(match[2])
    if sets + gets == 0:
        raise click.BadParameter(f"{text} asks for neither sets nor gets")
    return _in_range("set_share", sets, text), _in_range("get_share", gets, text)


_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def _sizes(_ctx: click.Context, _param: click.Parameter, text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)([km]?)(?:-(\d+)([km]?))?", text.lower())
    if match is None:
        raise click.BadParameter(f"{text} is not a size (100, 4k) or a range of sizes (10-4k)")
    low = int(match[1]) * _UNITS[match[2]]
    high = low if match[3] is None else int(match[3]) * _UNITS[match[4]]
    if low > high:
        raise click.BadParameter(f"{text} begins above its end")
    return _in_range("value_bytes_min", low, text), _in_range("value_bytes_max", high, text)


def _split_target(target: str) -> tuple[str, int]:
    """Host or path, and the port; 0 for a UNIX socket."""
    if target.startswith("unix:"):
        return target.removeprefix("unix:"), 0
    if "/" in target:
        return target, 0
    match = re.fullmatch(r"(?:\[(.+)\]|([^:]*))(?::(\d+))?", target)
    if match is None:
        try:
            return str(ipaddress.IPv6Address(target)), DEFAULT_PORT
        except ValueError:
            raise click.BadParameter(
                f"{target} is not HOST, HOST:PORT, [IPV6]:PORT or a socket's path",
                param_hint="TARGET",
            ) from None
    port = DEFAULT_PORT if match[3] is None else int(match[3])
    if not 1 <= port <= 65535:
        raise click.BadParameter(f"port {port} is not in the range 1 to 65535", param_hint="TARGET")
    return match[1] or match[2] or "127.0.0.1", port


def _resolve(host: str, port: int) -> list[str]:
    """The numeric addresses of a host, as the resolver orders them."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise MemcachepyError(f"cannot find the address of {host}: {error.strerror}") from None
    return list(dict.fromkeys(str(row[4][0]) for row in found))


def _first_that_answers(addresses: list[str], port: int) -> str:
    """`localhost` is ::1 first, where a server on 127.0.0.1 alone does not listen."""
    for address in addresses[:-1]:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
            return address
    return addresses[-1]


def _is_local(address: str, port: int) -> bool:
    if port == 0:
        return True
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None)
    return bool((mapped or ip).is_loopback)


def _ask(target: str, address: str) -> None:
    """Loads nobody's server by a slip of the fingers."""
    where = target if target.startswith(address) else f"{target} ({address})"
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"{where} is not loopback; give --yes to load it (there is no terminal to ask on)"
        )
    click.confirm(f"Load {where}, which is not loopback?", abort=True, err=True)


def _pin(cpu: int) -> None:
    usable = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {cpu})
    except (OSError, ValueError):
        raise click.BadParameter(
            f"{cpu} is not a usable CPU; there are {usable}", param_hint="--pin"
        ) from None


class _ProgressLine:
    """One line on stderr, rewritten on a terminal, a line a second elsewhere."""

    def __init__(self) -> None:
        self._rewrites = sys.stderr.isatty()
        self._shown_at_s = 0.0
        self._last = ("", 0.0, 0)
        self._is_open = False

    def __call__(self, phase: str, elapsed_s: float, requests: int, errors: int) -> None:
        now_s = time.monotonic()
        if not self._rewrites and now_s - self._shown_at_s < 1:
            return
        self._shown_at_s = now_s
        last_phase, last_s, last_requests = self._last
        if phase != last_phase:
            last_s, last_requests = 0.0, 0
        self._last = (phase, elapsed_s, requests)
        rate = (requests - last_requests) / max(elapsed_s - last_s, 1e-9)
        line = f"{phase:8} {elapsed_s:6.1f} s  {requests:>13,} requests  {rate:>11,.0f}/s"
        line += f"  {errors:,} errors" if errors else ""
        self._is_open = self._rewrites
        print(
            f"\r{line}\x1b[K" if self._rewrites else line,
            end="" if self._rewrites else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self._is_open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def bottleneck(settings: Mapping[str, Any], phase: Mapping[str, Any]) -> list[str]:
    """Why the figures of a phase may be the generator's own, a sentence each; empty when not."""
    reasons = []
    if phase["generator_cpu_share"] > CPU_SHARE_BOUND:
        reasons.append(
            f"it used {phase['generator_cpu_share']:.0%} of its core;"
            " the server may be able to do more"
        )
    if settings["rate_per_s"] and phase["late_sends"] > LATE_SHARE_BOUND * phase["requests"]:
        reasons.append(
            f"{phase['late_sends']:,} of {phase['requests']:,} requests were sent 1 ms or more"
            f" after they were due (at most {phase['send_delay_us_max'] / 1000:.1f} ms)"
        )
    if phase["port_shortages"]:
        reasons.append(
            f"{phase['port_shortages']:,} connects had to wait for a free local port"
            " (net.ipv4.ip_local_port_range)"
        )
    return reasons


def _complete_phase(settings: Mapping[str, Any], phase: dict[str, Any]) -> dict[str, Any]:
    wall_s = max(phase["wall_s"], 1e-9)
    cpu_s = max(phase["generator_cpu_s"], 1e-9)
    phase["requests_per_s"] = phase["requests"] / wall_s
    phase["generator_cpu_share"] = phase["generator_cpu_s"] / wall_s
    phase["requests_per_generator_cpu_s"] = phase["requests"] / cpu_s
    phase["generator_bound"] = bottleneck(settings, phase)
    return phase


def _duration_text(value_us: float) -> str:
    if value_us < 1000:
        return f"{value_us:.0f} us"
    if value_us < 1_000_000:
        return f"{value_us / 1000:.2f} ms"
    return f"{value_us / 1_000_000:.2f} s"


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.2%})" if whole else f"{part:,}"


def _settings_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    settings = report["settings"]
    sizes = {settings["value_bytes_min"], settings["value_bytes_max"]}
    loop = f"{settings['rate_per_s']:,} requests/s" if settings["rate_per_s"] else "closed loop"
    shape = f"{settings['connection_count']:,} connections"
    if settings["reconnect"]:
        shape += ", a new one for every request"
    elif settings["pipeline_depth"] > 1:
        shape += f", {settings['pipeline_depth']} requests in flight on each"
    drawn = f"Zipf {settings['zipf_exponent']:g}" if settings["zipf_exponent"] else "uniform"
    read = "mg" if settings["meta"] else "get"
    if settings["keys_per_get"] > 1:
        read += f" of {settings['keys_per_get']} keys"
    return [
        ("target", f"{report['target']}, {shape}, {loop}"),
        (
            "work",
            f"set:{read} {settings['set_share']}:{settings['get_share']}, {drawn} over"
            f" {settings['key_count']:,} keys of {settings['key_bytes']} bytes,"
            f" values of {'-'.join(f'{size:,}' for size in sorted(sizes))} bytes",
        ),
    ]


def _prefill_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    prefill, key_count = report["prefill"], report["settings"]["key_count"]
    if prefill is None or prefill["stored"] == key_count:
        return []
    stored = f"{prefill['stored']:,} of {key_count:,} keys were stored"
    return [("prefill", f"{stored}; the first error: {prefill['error_sample']}")]


def _trouble_rows(phase: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (label, f"{phase[name]:,} {what}")
        for name, label, what in (
            ("errors", "errors", "requests answered by an error"),
            ("lost_requests", "lost", "requests in flight when their connection ended"),
            ("connections_refused", "refused", "connects failed"),
        )
        if phase[name]
    ]
    if phase["error_sample"]:
        rows.append(("first", phase["error_sample"]))
    if phase["wrong_values"]:
        rows.append(("WRONG", f"{phase['wrong_values']:,}; the first: {phase['wrong_sample']}"))
    if phase["unsent_requests"]:
        rows.append(
            (
                "unsent",
                f"{phase['unsent_requests']:,} requests were due but the server was too far"
                " behind; their latency is in no percentile",
            )
        )
    rows.extend(("generator", f"was the bottleneck: {text}") for text in phase["generator_bound"])
    return rows


def _phase_rows(phase: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (
            "requests",
            f"{phase['requests']:,} in {phase['wall_s']:.2f} s = {phase['requests_per_s']:,.0f}/s",
        )
    ]
    if phase["gets"]:
        keys = phase["keys_requested"]
        rows.append(
            ("gets", f"{phase['gets']:,}; {_share(phase['hits'], keys)} of {keys:,} keys hit")
        )
    if phase["sets"]:
        rows.append(("sets", f"{phase['sets']:,}; {_share(phase['stored'], phase['sets'])} stored"))
    sent, received = phase["bytes_sent"], phase["bytes_received"]
    rows.append(
        (
            "traffic",
            f"{sent / phase['wall_s'] / 1e6:,.1f} MB/s sent,"
            f" {received / phase['wall_s'] / 1e6:,.1f} MB/s received",
        )
    )
    rows.append(
        (
            "generator",
            f"{phase['generator_cpu_share']:.0%} of a core,"
            f" {phase['requests_per_generator_cpu_s']:,.0f} requests per CPU-second",
        )
    )
    return rows


def render(report: Mapping[str, Any]) -> str:
    """The report as a table for people."""
    phase = report["load"]
    rows = _settings_rows(report) + _phase_rows(phase)
    lines = [f"{name:<10} {text}" for name, text in rows]
    columns = ("p50", "p90", "p99", "p99.9", "max", "mean")
    values = [_duration_text(phase["latency_us"][name.replace(".", "_")]) for name in columns]
    lines += [
        "",
        f"{'latency':<10} " + "".join(f"{name:>11}" for name in columns),
        f"{'':<10} " + "".join(f"{value:>11}" for value in values),
    ]
    trouble = _prefill_rows(report) + _trouble_rows(phase)
    if trouble:
        lines += ["", *(f"{name:<10} {text}" for name, text in trouble)]
    return "\n".join(lines)


def _translate(message: str) -> str:
    """The generator's message with the options' names."""
    for setting, option in _OPTIONS.items():
        message = re.sub(rf"\b{setting}\b", option, message)
    return message


def _run(settings: Mapping[str, Any], target: str, shows_progress: bool) -> dict[str, Any]:
    line = _ProgressLine() if shows_progress else None
    started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        phases = _load.run(settings, line)
    except ValueError as error:
        raise click.UsageError(_translate(str(error))) from None
    except _load.LoadError as error:
        raise MemcachepyError(f"{target}: {_translate(str(error))}") from None
    finally:
        if line is not None:
            line.close()
    return {
        "memcachepy": __version__,
        "started_at": started_at,
        "target": target,
        "settings": dict(settings),
    } | {
        name: phase if phase is None else _complete_phase(settings, phase)
        for name, phase in phases.items()
    }


@click.command(short_help="Load a server and say how it did.")
@click.argument("target", default=DEFAULT_TARGET)
@click.option(
    "-c",
    "--connections",
    type=_whole("connection_count"),
    default=50,
    show_default=True,
    help="Connections held open (or, with --reconnect, in flight).",
)
@click.option(
    "-P",
    "--pipeline",
    type=_whole("pipeline_depth"),
    default=1,
    show_default=True,
    help="Requests in flight on each connection.",
)
@click.option(
    "--multi-get",
    type=_whole("keys_per_get"),
    default=1,
    show_default=True,
    metavar="N",
    help="Keys of one get.",
)
@click.option("--meta", is_flag=True, help="Read with mg instead of get.")
@click.option(
    "--ratio",
    callback=_ratio,
    metavar="SETS:GETS",
    default="1:10",
    show_default=True,
    help="Sets to gets.",
)
@click.option(
    "--keys",
    type=_whole("key_count"),
    default=100_000,
    show_default=True,
    help="How many different keys.",
)
@click.option(
    "--key-size",
    type=_whole("key_bytes"),
    default=16,
    show_default=True,
    help="Bytes of a key, prefix included.",
)
@click.option("--key-prefix", default="key:", show_default=True, help="What every key begins with.")
@click.option(
    "--zipf",
    type=click.FloatRange(0, 10),
    default=0.0,
    metavar="EXPONENT",
    help="Draw keys by Zipf's law, 0.99 say; without it all alike.",
)
@click.option(
    "--value-size",
    callback=_sizes,
    metavar="BYTES[-BYTES]",
    default="100",
    show_default=True,
    help="Bytes of a value, or a range: 10-4k.",
)
@click.option(
    "--exptime", type=_whole("exptime"), default=0, show_default=True, help="Exptime of every set."
)
@click.option(
    "--rate",
    type=_whole("rate_per_s"),
    default=0,
    metavar="PER_SECOND",
    help="Open loop: so many requests a second, come what may; latency counts from the"
    " moment a request was due. Without it each connection waits for its replies.",
)
@click.option(
    "-d",
    "--duration",
    callback=_seconds("duration_ms"),
    metavar="SECONDS",
    default=None,
    help="Seconds to load for; 10 unless --requests is given.",
)
@click.option(
    "-n", "--requests", type=_whole("request_count"), default=0, help="End after so many requests."
)
@click.option(
    "--warmup",
    callback=_seconds("warmup_ms"),
    metavar="SECONDS",
    default="0",
    help="Seconds of the same load before it, not counted.",
)
@click.option("--prefill", is_flag=True, help="Set every key once before.")
@click.option("--reconnect", is_flag=True, help="Connect, one request, close.")
@click.option(
    "--verify",
    is_flag=True,
    help="Check key and value of every hit; the keys must have been set by this command.",
)
@click.option(
    "--seed", type=_whole("seed"), default=1, show_default=True, help="Of the keys and sizes drawn."
)
@click.option(
    "--timeout",
    callback=_seconds("timeout_ms"),
    metavar="SECONDS",
    default="10",
    show_default=True,
    help="Seconds without any reply after which the run fails.",
)
@click.option(
    "--pin", type=click.IntRange(0), default=None, metavar="CPU", help="Run on this CPU only."
)
@click.option("--yes", is_flag=True, help="Do not ask before loading another machine.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="A progress line on stderr; by default on a terminal.",
)
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Load a memcached-speaking server and say how it did.

    TARGET is HOST, HOST:PORT, [IPV6]:PORT or the path of a UNIX socket; 127.0.0.1:11211 without it.
    Exits with 1 when --verify found a wrong value.
    """
    target: str = options["target"]
    host, port = _split_target(target)
    addresses = [host] if port == 0 else _resolve(host, port)
    duration_ms = options["duration"]
    if duration_ms is None:
        duration_ms = 0 if options["requests"] else 10_000
    settings = {
        "port": port,
        "connection_count": options["connections"],
        "pipeline_depth": options["pipeline"],
        "keys_per_get": options["multi_get"],
        "set_share": options["ratio"][0],
        "get_share": options["ratio"][1],
        "key_count": options["keys"],
        "key_bytes": options["key_size"],
        "key_prefix": options["key_prefix"],
        "zipf_exponent": options["zipf"],
        "value_bytes_min": options["value_size"][0],
        "value_bytes_max": options["value_size"][1],
        "exptime": options["exptime"],
        "rate_per_s": options["rate"],
        "duration_ms": duration_ms,
        "request_count": options["requests"],
        "warmup_ms": options["warmup"],
        "timeout_ms": options["timeout"],
        "seed": options["seed"],
        "prefill": int(options["prefill"]),
        "meta": int(options["meta"]),
        "reconnect": int(options["reconnect"]),
        "verify": int(options["verify"]),
    }
    remote = [address for address in addresses if not _is_local(address, port)]
    if remote and not options["yes"]:
        _ask(target, remote[0])
    settings["address"] = _first_that_answers(addresses, port)
    if options["pin"] is not None:
        _pin(options["pin"])
    progress = options["progress"]
    report = _run(settings, target, sys.stderr.isatty() if progress is None else progress)
    click.echo(json.dumps(report, indent=2) if options["as_json"] else render(report))
    if any(report[name] and report[name]["wrong_values"] for name in ("warmup", "load")):
        ctx.exit(1)
