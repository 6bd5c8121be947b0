"""What the commands of `memcachepy cluster` have in common."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import click

from memcachepy.cluster.control import ControlConnection, Step
from memcachepy.cluster.spec import NAME_DEFAULT
from memcachepy.cluster.state import StateFolder, cluster_names, default_root
from memcachepy.cluster.warm import SETTLE_S
from memcachepy.errors import NoCluster

F = TypeVar("F", bound=Callable[..., Any])

SETTINGS_OF_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


def cluster_options(command: F) -> F:
    """--name and --state-dir."""
    command = click.option(
        "--state-dir",
        "root",
        metavar="<dir>",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where clusters keep their files "
        "[$XDG_STATE_HOME/memcachepy; /var/lib/memcachepy for root].",
    )(command)
    return click.option(
        "--name", metavar="<name>", help=f"Which cluster of this machine [{NAME_DEFAULT}]."
    )(command)


drain_option = click.option(
    "--drain",
    "drain_s",
    metavar="<s>",
    type=click.FloatRange(0, 3600),
    help="Seconds between leaving the list and the stop of a node, for clients to notice "
    "[the cluster's: 5].",
)


def warm_options(command: F) -> F:
    """--warm and --settle."""
    command = click.option(
        "--settle",
        "settle_s",
        metavar="<s>",
        type=click.FloatRange(0.1, 86400),
        help="With --warm: how long clients may take to learn the new list; until then the nodes "
        f"watch each other's writes [{SETTLE_S:g}].",
    )(command)
    return click.option(
        "--warm",
        is_flag=True,
        help="Copy the items whose home changes before clients are told.",
    )(command)


keep_listed_option = click.option(
    "--keep-listed",
    is_flag=True,
    help="Leave it in the list while it restarts: its keys are misses for that moment, and no "
    "client sends them elsewhere.",
)


def folder_of(name: str | None, root: Path | None) -> StateFolder:
    return StateFolder(root or default_root(os.environ, os.geteuid()), name or NAME_DEFAULT)


def connect(folder: StateFolder, timeout_s: float | None = None) -> ControlConnection:
    """Raises NoCluster, with the names of those that there are."""
    try:
        return ControlConnection(folder.socket_path, folder.name, timeout_s)
    except NoCluster:
        names = [name for name in cluster_names(folder.path.parent) if name != folder.name]
        running = sorted(folder.running_nodes())
        if running:
            why = (
                f"its supervisor does not run, but {len(running)} of its nodes do: "
                f"`memcachepy cluster up --name {folder.name}` takes them over"
            )
        else:
            others = f"; there is also {', '.join(names)} (--name)" if names else ""
            why = f"`memcachepy cluster up` starts it{others}"
        raise NoCluster(f"cluster {folder.name} does not run ({folder.path}): {why}") from None


def ask(
    folder: StateFolder, operation: str, arguments: Mapping[str, object], as_json: bool
) -> dict[str, Any]:
    """Have something done, and show how far it is."""
    connection = connect(folder)
    try:
        with Progress(operation, is_quiet=as_json) as show:
            return connection.ask(
                operation, arguments, lambda text, done, count: show(Step(text, done, count))
            )
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            f"\nThe cluster goes on with it: `memcachepy cluster status --name {folder.name}` "
            "says how far it is.",
            err=True,
        )
        raise
    finally:
        connection.close()


class Progress:
    """On a terminal a bar with the last step behind it, else a line for each step, on stderr.

    Has a descriptor of its own until it is closed: a process that goes to the background can go on
    to use it for a while.
    """

    def __init__(self, label: str, is_quiet: bool = False) -> None:
        self._label = label
        self._out = None if is_quiet else os.fdopen(os.dup(sys.stderr.fileno()), "w")
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __call__(self, step: Step) -> None:
        if self._out is None:
            return
        with suppress(OSError):
            if self._out.isatty():
                self._show(step)
            else:
                click.echo(f"{step.text} ({step.done} of {step.count})", file=self._out)

    def _show(self, step: Step) -> None:
        if self._bar is None:
            self._bar = click.progressbar(
                length=step.count,
                label=self._label,
                file=self._out,
                item_show_func=lambda text: text or "",
            )
            self._bar.__enter__()
        self._bar.length = max(step.count, 1)
        self._bar.update(step.done - self._bar.pos, step.text)

    def close(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            with suppress(OSError), out:
                if self._bar is not None:
                    self._bar.__exit__(None, None, None)


def table_text(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be; numbers to the right."""
    lines = [heading, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    right = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(heading))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _is_number(text: str) -> bool:
    return (text[:1].isdigit() and ":" not in text) or text == "-"


def duration_text(seconds: float) -> str:
    """As in 3d4h, 5m or 12s."""
    whole = max(0, int(seconds))
    for unit_s, letter, next_s, next_letter in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= unit_s:
            return f"{whole // unit_s}{letter}{whole % unit_s // next_s}{next_letter}"
    return f"{whole}s"


def echo_json(data: object) -> None:
    click.echo(json.dumps(data, indent=2))
