"""`memcachepy restore`: the items of a dump into a running server."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from memcachepy.admin.client import Address
from memcachepy.admin.restore import (
    RestoreOptions,
    RestoreResult,
    check,
    state_path,
)
from memcachepy.admin.restore import restore as restore_items
from memcachepy.cli._admin import (
    file_argument,
    json_option,
    megabytes,
    numbers,
    prefix_option,
    progress_bar,
    progress_option,
    server_option,
    timeout_option,
)
from memcachepy.errors import MemcachepyError

EXIT_REFUSED = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@file_argument
@server_option
@prefix_option
@click.option("--add", is_flag=True, help="Keep what the server has already.")
@click.option("--resume", is_flag=True, help="Continue a restore that was interrupted.")
@click.option("--check", "only_check", is_flag=True, help="Only read FILE to its end.")
@timeout_option
@progress_option
@json_option
def restore(
    path: Path,
    address: Address,
    prefix: bytes,
    add: bool,
    resume: bool,
    only_check: bool,
    timeout_s: float,
    progress: bool | None,
    as_json: bool,
) -> int:
    """Store the items of FILE in a running node or memcached.

    They get the time to live that is left of theirs; what has expired meanwhile is left out.
    """
    if only_check:
        with progress_bar("check", progress) as show:
            facts = check(path, show)
        click.echo(json.dumps(facts, indent=2) if as_json else _facts_text(path, facts))
        return 0
    options = RestoreOptions(path, address, prefix, add, resume, timeout_s)
    result = RestoreResult()
    try:
        with progress_bar("restore", progress) as show:
            restore_items(options, show, result)
    except MemcachepyError as error:
        _report(options, result, as_json, str(error))
        raise
    except KeyboardInterrupt:
        _report(options, result, as_json, "interrupted")
        if state_path(path).exists():
            click.echo("--resume continues it", err=True)
        raise
    _report(options, result, as_json, None)
    return EXIT_REFUSED if result.counts.refused else 0


def _facts_text(path: Path, facts: dict[str, object]) -> str:
    return (
        f"{path} is whole: {facts['items']:,} items in {facts['blocks']:,} blocks, from "
        f"{facts.get('source')} (version {facts.get('server_version')})"
    )


def _report(
    options: RestoreOptions, result: RestoreResult, as_json: bool, error: str | None
) -> None:
    if as_json:
        report = {
            "file": str(options.path),
            "server": str(options.address),
            **asdict(result.counts),
            "refusals": result.refusals,
            "blocks": result.blocks,
            "duration_s": round(result.duration_s, 3),
            "error": error,
        }
        click.echo(json.dumps(report, indent=2))
        return
    counts = result.counts
    text = (
        f"{numbers(counts.stored)} items, {megabytes(counts.stored_bytes)} of values, stored in "
        f"{options.address}"
    )
    others = [
        f"{numbers(count)} {what}"
        for count, what in (
            (counts.kept, "kept as they were"),
            (counts.expired, "expired meanwhile"),
            (counts.filtered, "without the prefix"),
            (counts.refused, "refused"),
        )
        if count
    ]
    click.echo(text + ("; not stored: " + ", ".join(others) if others else ""))
    for words, count in result.refusals.items():
        click.echo(f"{numbers(count)} times: {words}", err=True)
