"""`memcachepy simulate`: what caches of several sizes and policies miss under a trace of keys."""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import click

from memcachepy import __version__, _core
from memcachepy.config import SETTINGS
from memcachepy.errors import MemcachepyError
from memcachepy.simulate import FORMATS, CacheConfig, Trace, measure_footprint, plot_curves
from memcachepy.simulate import simulate as simulate_caches
from memcachepy.simulate.cache import MEMORY_BYTES_MIN
from memcachepy.simulate.plot import check_picture
from memcachepy.simulate.requests import Requests
from memcachepy.simulate.trace import KEY_LEN_DEFAULT, KEY_LEN_MAX, VALUE_LEN_DEFAULT

MEGABYTE = 1 << 20
KEYS_PERCENT_DEFAULT = "1,5,10,20"
_STEP_BYTES = 64 << 10
TTL_S_MAX = 30 * 24 * 3600
_UNITS = {"": MEGABYTE, "k": 1 << 10, "m": MEGABYTE, "g": 1 << 30}


def _memory_sizes(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[int]:
    sizes = []
    for word in text.split(",") if text else ():
        match = re.fullmatch(r"(\d{1,15})([kmg]?)", word.strip().lower())
        if match is None:
            raise click.BadParameter(f"{word} is not a size: 64 (megabytes), 512k, 64m, 1g")
        size = int(match[1]) * _UNITS[match[2]]
        if not MEMORY_BYTES_MIN <= size <= _core.MEMORY_BYTES_MAX:
            most_mb = _core.MEMORY_BYTES_MAX // MEGABYTE
            raise click.BadParameter(f"{word} is not in the range 1m to {most_mb}m")
        sizes.append(size)
    return list(dict.fromkeys(sizes))


def _percents(_ctx: click.Context, _param: click.Parameter, text: str | None) -> list[float]:
    percents = []
    for word in text.split(",") if text else ():
        try:
            percent = float(word)
        except ValueError:
            raise click.BadParameter(f"{word} is not a number") from None
        if not 0 < percent <= 1000:
            raise click.BadParameter(f"{word} is not in the range above 0 to 1000")
        percents.append(percent)
    return list(dict.fromkeys(percents))


def _policies(_ctx: click.Context, _param: click.Parameter, text: str) -> list[str]:
    policies = [word.strip() for word in text.split(",")]
    for word in policies:
        if word not in _core.EVICTION_POLICIES:
            raise click.BadParameter(f"{word} is none of {', '.join(_core.EVICTION_POLICIES)}")
    return list(dict.fromkeys(policies))


def _setting(_ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    """A value as `serve` reads it; None where the flag was not given."""
    assert param.name is not None
    return None if text is None else SETTINGS[param.name].read(text, param.opts[0])


@contextmanager
def _progress_bar(label: str, trace: Trace, is_shown: bool) -> Iterator[Any]:
    """The batches of the trace, with a bar over the bytes of its file."""
    size_bytes = trace.size_bytes
    if not is_shown or size_bytes is None:
        yield trace.requests()
        return
    with click.progressbar(length=size_bytes, label=label, file=sys.stderr) as bar:

        def watched() -> Iterator[Requests]:
            for batch in trace.requests():
                yield batch
                bar.update(trace.position_bytes - bar.pos)
            bar.update(size_bytes - bar.pos)

        yield watched()


def _sizes_for(
    trace: Trace, options: Mapping[str, Any], is_shown: bool
) -> tuple[dict[int, float | None], int | None]:
    """The memory sizes in bytes, each with the percent it is meant for, and the count of keys."""
    if options["memory"]:
        return dict.fromkeys(options["memory"]), None
    if trace.size_bytes is None:
        raise click.UsageError("stdin is read only once: give --memory instead of --keys-percent")
    with _progress_bar(f"{trace.name}: keys", trace, is_shown) as batches:
        footprint = measure_footprint(batches)
    sizes: dict[int, float | None] = {}
    for percent in options["keys_percent"] or _percents_default():
        wanted_bytes = round(footprint.item_bytes * percent / 100 / _STEP_BYTES) * _STEP_BYTES
        memory_bytes = min(max(wanted_bytes, MEMORY_BYTES_MIN), _core.MEMORY_BYTES_MAX)
        if memory_bytes != wanted_bytes:
            percent = round(memory_bytes / footprint.item_bytes * 100, 1)
        sizes[memory_bytes] = percent
    return sizes, footprint.key_count


def _percents_default() -> list[float]:
    return [float(word) for word in KEYS_PERCENT_DEFAULT.split(",")]


def run_trace(trace: Trace, options: Mapping[str, Any], is_shown: bool) -> dict[str, Any]:
    """Simulate all caches under one trace; the report on it."""
    sizes, key_count = _sizes_for(trace, options, is_shown)
    configs = [
        CacheConfig(
            memory_bytes=memory_bytes,
            eviction_policy=policy,
            growth_factor=options["slab_growth_factor"] or 1.1,
            item_size_min_bytes=options["slab_min_size"] or 8,
            item_size_max_bytes=options["max_item_size"],
            ttl_s=options["ttl"],
        )
        for policy in options["eviction_policy"]
        for memory_bytes in sizes
    ]
    with _progress_bar(trace.name, trace, is_shown) as batches:
        found = simulate_caches(batches, configs)
    return {
        "trace": trace.name,
        "format": trace.format,
        "requests": found[0].requests,
        "keys": key_count,
        "rows": [
            {
                "eviction_policy": figures.config.eviction_policy,
                "memory_bytes": figures.config.memory_bytes,
                "keys_percent": sizes[figures.config.memory_bytes],
                "requests": figures.requests,
                "misses": figures.misses,
                "miss_ratio": round(figures.miss_ratio, 6),
                "byte_miss_ratio": round(figures.byte_miss_ratio, 6),
                "evictions": figures.evictions,
                "items": figures.items,
                "refused": figures.refused,
            }
            for figures in found
        ],
    }


# ---- output ---------------------------------------------------------------------------------


def _memory_text(memory_bytes: int) -> str:
    if memory_bytes % MEGABYTE:
        return f"{memory_bytes >> 10}k"
    return f"{memory_bytes // MEGABYTE}m"


def _cells(row: Mapping[str, Any]) -> list[str]:
    percent = row["keys_percent"]
    return [
        row["eviction_policy"],
        _memory_text(row["memory_bytes"]),
        "" if percent is None else f"{percent:g}%",
        f"{row['miss_ratio']:.4f}",
        f"{row['byte_miss_ratio']:.4f}",
        f"{row['misses']:,}",
        f"{row['evictions']:,}",
        f"{row['items']:,}",
        f"{row['refused']:,}" if row["refused"] else "",
    ]


_HEADINGS = ["policy", "memory", "keys", "miss ratio", "by bytes", "misses", "evictions", "items"]


def render(reports: Sequence[Mapping[str, Any]]) -> str:
    """An aligned table below each trace's name."""
    lines = []
    for report in reports:
        keys = f", {report['keys']:,} keys" if report["keys"] is not None else ""
        lines += [f"{report['trace']}: {report['requests']:,} requests{keys}", ""]
        table = [[*_HEADINGS, "refused"], *map(_cells, report["rows"])]
        # A column without a cell below its heading is left out.
        columns = [column for column in zip(*table, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        for cells in zip(*columns, strict=True):
            first = cells[0].ljust(widths[0])
            rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
            lines.append("  ".join([first, *rest]).rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def render_csv(reports: Sequence[Mapping[str, Any]]) -> str:
    """A line for each cache, its trace first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(reports[0]["rows"][0])
    writer.writerow(["trace", *names])
    for report in reports:
        for row in report["rows"]:
            writer.writerow([report["trace"], *(row[name] for name in names)])
    return text.getvalue().rstrip("\n")


def _plot(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    curves: dict[str, list[tuple[int, float]]] = {}
    for report in reports:
        for row in report["rows"]:
            name = row["eviction_policy"]
            if len(reports) > 1:
                name = f"{Path(report['trace']).name}, {name}"
            curves.setdefault(name, []).append((row["memory_bytes"], row["miss_ratio"]))
    plot_curves(path, curves, Path(reports[0]["trace"]).name if len(reports) == 1 else "")


def _print(text: str, output: TextIO | None = None) -> None:
    click.echo(text, file=output)


@click.command(
    short_help="Say what a cache would miss under a trace of keys.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.argument("traces", nargs=-1, required=True, metavar="TRACE...")
@click.option(
    "-m",
    "--memory",
    callback=_memory_sizes,
    metavar="SIZE,...",
    help="Sizes to simulate, as in 16m,64m,1g; a plain number is in megabytes.",
)
@click.option(
    "--keys-percent",
    callback=_percents,
    metavar="PERCENT,...",
    help="Or sizes in percent of what all keys of the trace would take; reads the trace twice."
    f" [{KEYS_PERCENT_DEFAULT}]",
)
@click.option(
    "--eviction-policy",
    callback=_policies,
    metavar="NAME,...",
    default=_core.EVICTION_POLICIES[0],
    show_default=True,
    help=f"{', '.join(_core.EVICTION_POLICIES)}.",
)
@click.option(
    "--format", type=click.Choice(FORMATS), help="Of the traces; by their suffixes without it."
)
@click.option(
    "--value-size",
    type=click.IntRange(0, (1 << 32) - 1),
    default=VALUE_LEN_DEFAULT,
    show_default=True,
    metavar="BYTES",
    help="Of values that the trace gives no size for.",
)
@click.option(
    "--key-size",
    type=click.IntRange(8, KEY_LEN_MAX),
    metavar="BYTES",
    help=f"Of all keys; without it a text trace's own, else {KEY_LEN_DEFAULT}.",
)
@click.option(
    "--ttl",
    type=click.IntRange(0, TTL_S_MAX),
    default=0,
    metavar="SECONDS",
    help="Exptime of every set; time passes as the trace says, if it does.",
)
@click.option(
    "-f",
    "--slab-growth-factor",
    callback=_setting,
    metavar="<num>",
    help="As in serve, like the next two.",
)
@click.option("-n", "--slab-min-size", callback=_setting, metavar="<num>")
@click.option("-I", "--max-item-size", callback=_setting, metavar="<size>")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
@click.option("--csv", "as_csv", is_flag=True, help="Report as CSV on stdout.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw the miss-ratio curves into a .png or .svg file.",
)
@click.option(
    "--progress/--no-progress",
    default=None,
    help="A progress bar on stderr; by default on a terminal.",
)
def simulate(traces: tuple[str, ...], **options: Any) -> None:
    """Replay traces of keys against the real store, read-through: get, and on a miss set.

    A TRACE is text (.txt .csv .keys: a key a line, or key and value size), little-endian 32-bit
    numbers (.u32) or libCacheSim's .oracleGeneral, each also as .gz or .zst; - is stdin. All caches
    are simulated at the same time, and each takes the memory that it is given.
    """
    if options["as_json"] and options["as_csv"]:
        raise click.UsageError("--json and --csv exclude each other")
    if options["memory"] and options["keys_percent"]:
        raise click.UsageError("--memory and --keys-percent exclude each other")
    if traces.count("-") > 1:
        raise click.UsageError("stdin is read only once: one - at most")
    if options["plot"] is not None:
        check_picture(options["plot"])
    opened = [
        Trace(
            path,
            options["format"],
            key_len=options["key_size"],
            value_len=options["value_size"],
        )
        for path in traces
    ]
    progress = options["progress"]
    is_shown = sys.stderr.isatty() if progress is None else progress
    reports: list[dict[str, Any]] = []
    try:
        reports.extend(run_trace(trace, options, is_shown) for trace in opened)
    except MemcachepyError:
        if reports:
            _print(render(reports), sys.stderr)
        raise
    if options["as_json"]:
        _print(json.dumps({"memcachepy": __version__, "traces": reports}, indent=2))
    else:
        _print(render_csv(reports) if options["as_csv"] else render(reports))
    if options["plot"] is not None:
        _plot(options["plot"], reports)
