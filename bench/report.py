"""Render the newest results of each kind as the Markdown tables of the README files.

What `run.py` measured is rendered here, the rest by the script that measured it. A ratio is taken
within each round and the median of the rounds is shown, with the smallest and the largest; times
are medians of the rounds.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scenarios import MG_BAR, OWN_GETS, PRIVATE_DIRTY_BYTES_BAR

HERE = Path(__file__).parent
SECTIONS = {
    "bench": "[0-9]*.json",
    "miss_ratio": "miss_ratio-*.json",
    "shift": "shift-*.json",
    "items": "items-*.json",
    "sizes": "sizes-*.json",
}
"""The name of a section's markers, and the files of its results."""
GENERATOR_SHARE_BOUND = 0.95
OTHER_SHARE_BOUND = 0.05


def _figures(scenario: Mapping[str, Any], kind: str, name: str) -> list[float]:
    return [row[kind][name] for row in scenario["rounds"] if kind in row]


def _costs(scenario: Mapping[str, Any], kind: str) -> list[float]:
    return _figures(scenario, kind, "server_cpu_us_per_request")


def ratios(scenario: Mapping[str, Any], kind: str, base: str) -> list[float]:
    """CPU per request of one server over another's, one for each round that has both."""
    return [
        row[kind]["server_cpu_us_per_request"] / row[base]["server_cpu_us_per_request"]
        for row in scenario["rounds"]
        if kind in row and base in row
    ]


def _text(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f}" if values else "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"**{median(values):.2f}** ({min(values):.2f} to {max(values):.2f})"


def _verdict(values: Sequence[float], bar: float | None) -> str:
    if bar is None:
        return ""
    if not values:
        return f"≤ {bar:.2f}"
    return f"≤ {bar:.2f} {'✓' if median(values) <= bar else '✗ missed'}"


def _above_floor(values: Sequence[float]) -> str:
    return f"{median(values) - 1:+.0%}" if values else "-"


def scenario_row(scenario: Mapping[str, Any]) -> str:
    """One line of the table."""
    ours = ratios(scenario, "memcachepy", "memcached")
    cells = [
        scenario["title"] + (" †" if _is_generator_bound(scenario) else ""),
        _text(_costs(scenario, "memcached")),
        _text(_costs(scenario, "memcachepy")),
        _spread(ours),
        _verdict(ours, scenario["bar"]),
        _text(ratios(scenario, "floor", "memcached")),
        _above_floor(ratios(scenario, "memcachepy", "floor")),
    ]
    return "| " + " | ".join(cells) + " |"


def _is_generator_bound(scenario: Mapping[str, Any]) -> bool:
    return any(
        median(_figures(scenario, kind, "generator_cpu_share")) > GENERATOR_SHARE_BOUND
        for kind in ("memcached", "memcachepy")
        if _figures(scenario, kind, "generator_cpu_share")
    )


def _disturbance(results: Mapping[str, Any]) -> list[str]:
    shares = [
        part["other_cpu_share"]
        for scenario in results["scenarios"]
        for row in scenario["rounds"]
        for part in row.values()
    ]
    if not shares or median(shares) <= OTHER_SHARE_BOUND:
        return []
    return [
        "",
        f"**Disturbed:** other work used {median(shares):.0%} of a core during these loads.",
    ]


def _own_lines(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for scenario in results["scenarios"]:
        own = ratios(scenario, "memcachepy", OWN_GETS)
        if own:
            title = scenario["title"]
            lines += ["", f"{title}, against our own get: {_spread(own)} {_verdict(own, MG_BAR)}."]
    return lines


def _memory_lines(results: Mapping[str, Any]) -> list[str]:
    memory = results.get("memory", {}).get("memcachepy")
    if memory is None:
        return []
    size = memory["worker_private_dirty_bytes"]
    verdict = "✓" if size <= PRIVATE_DIRTY_BYTES_BAR else "✗ missed"
    return [
        "",
        f"Private dirty memory of a worker with {memory['connections']} connections under load:"
        f" **{size / 1e6:.1f} MB** (≤ {PRIVATE_DIRTY_BYTES_BAR / 1e6:.0f} MB {verdict}).",
    ]


def render(results: Mapping[str, Any]) -> str:
    """The whole section in Markdown."""
    machine = results["machine"]
    lines = [
        "Server CPU per request in microseconds, all processes of the server together, one worker"
        " each; 50 connections, 100,000 keys, 100-byte values unless said. The ratio is to"
        " memcached's (smallest and largest round in brackets); the floor only finds line ends and"
        " sends a canned reply.",
        "",
        "| load | memcached | memcachepy | ratio | bar | floor's ratio | above the floor |",
        "|---|---|---|---|---|---|---|",
        *(scenario_row(scenario) for scenario in results["scenarios"]),
    ]
    lines += _own_lines(results)
    lines += _memory_lines(results)
    if any(_is_generator_bound(scenario) for scenario in results["scenarios"]):
        lines += ["", "† The load generator had no CPU to spare; the server could do more."]
    lines += _disturbance(results)
    lines += [
        "",
        f"{machine['memcached']} with `-t 1` against memcachepy {machine['memcachepy']}"
        f" ({machine['commit']}) with `-t 1`; {machine['cpu']}, {machine['cpu_count']} CPUs,"
        f" {machine['system']}, Linux {machine['kernel']}, Python {machine['python']},"
        f" {machine['compiler']}; {results['rounds']} rounds of {results['duration_s']:g} s on"
        f" {results['started_at'][:10]}.",
    ]
    return "\n".join(lines) + "\n"


def insert(document: str, section: str, name: str = "bench") -> str:
    """The document with what is between the markers of the name replaced.

    Raises:
        ValueError: the markers are not there, once each and in order.
    """
    begin_mark, end_mark = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, begin, rest = document.partition(begin_mark)
    _, end, tail = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"no {begin_mark} … {end_mark}")
    return f"{head}{begin_mark}\n{section}{end_mark}{tail}"


def newest_results(name: str = "bench") -> Path | None:
    """The file of the section whose name, a date, comes last."""
    return max((HERE / "results").glob(SECTIONS[name]), default=None)


def section_of(path: Path) -> str:
    """By the name of a file of results; those of run.py may have any."""
    return next((name for name, names in SECTIONS.items() if path.match(names)), "bench")


def render_file(path: Path) -> str:
    """One section."""
    name = section_of(path)
    renderer = render if name == "bench" else importlib.import_module(name).render
    text: str = renderer(json.loads(path.read_text()))
    return text


def main(arguments: list[str] | None = None) -> int:
    """Print the tables, or put them into the README files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", nargs="*", type=Path, help="default: the newest of each kind that there is"
    )
    parser.add_argument("--update-readme", action="store_true", help="between the markers")
    parser.add_argument(
        "--readme",
        type=Path,
        action="append",
        help="default: bench/README.md and, where it has the markers, the top README.md",
    )
    args = parser.parse_args(arguments)
    sources = args.results or list(filter(None, map(newest_results, SECTIONS)))
    if not sources:
        parser.error("there are no results yet; run bench/run.py")
    for source in sources:
        section = render_file(source)
        if not args.update_readme:
            print(section, end="" if source == sources[-1] else "\n")
            continue
        for readme in args.readme or [HERE / "README.md", HERE.parent / "README.md"]:
            try:
                document = insert(readme.read_text(), section, section_of(source))
                readme.write_text(document)
            except (FileNotFoundError, ValueError) as error:
                if args.readme:
                    print(f"report: {readme}: {error}", file=sys.stderr)
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
