"""`memcachepy cluster events`: what has happened, under ElastiCache's names."""

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from memcachepy.cli._admin import json_option
from memcachepy.cli._cluster import SETTINGS_OF_CONTEXT, cluster_options, connect, folder_of
from memcachepy.cluster.events import Event, EventName, Filter, follow_events, read_events

_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _moment(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float:
    """Unix time; from the past's beginning without any text."""
    if text is None:
        return 0.0
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text):
        return time.time() - float(match[1]) * _UNITS_S[match[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text} is neither a time as in 90s, 10m, 2h or 3d, nor a date as in 2027-03-01 or "
            "2027-03-01T12:00:00Z"
        ) from None
    # A date without a zone means the local one.
    return at.timestamp()


@click.command(context_settings=SETTINGS_OF_CONTEXT)
@cluster_options
@click.option(
    "--since",
    "since_s",
    metavar="<time>",
    callback=_moment,
    help="Only what happened in the last 10m, 2h or 3d, or since a date and time.",
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option(
    "--type",
    "names",
    metavar="<name>",
    multiple=True,
    type=click.Choice([name.value for name in EventName], case_sensitive=False),
    help="Only events of this name; may be repeated.",
)
@click.option("--node", "node_ids", metavar="<id>", multiple=True, help="Only this node's.")
@click.option(
    "--limit",
    metavar="<n>",
    type=click.IntRange(1),
    help="Only the newest, so many of those that are there.",
)
@json_option
def events(
    name: str | None,
    root: Path | None,
    since_s: float,
    follow: bool,
    names: tuple[str, ...],
    node_ids: tuple[str, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Show what has happened to a cluster, from the oldest to the newest.

    The names are ElastiCache's. With --json there is an object on each line.
    """
    folder = folder_of(name, root)
    if not folder.path.exists():
        connect(folder).close()  # Says which clusters there are.
    ids = {text.zfill(4) if text.isdecimal() else text for text in node_ids}
    wanted = Filter(since_s, set(names), ids)
    if not follow:
        for event in read_events(folder.events_path, wanted, limit):
            _tell(event, as_json)
        return
    for event in follow_events(folder.events_path, wanted, limit):
        _tell(event, as_json)


def _tell(event: Event, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event.as_dict()))
        return
    at = datetime.fromtimestamp(event.at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"{at}  {event.node_id or '-':4}  {event.name}"
    click.echo(f"{text}: {event.message}" if event.message else text)
