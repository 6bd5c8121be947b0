"""`memcachepy dump`: all items of a running server into a file."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from memcachepy.admin.client import Address
from memcachepy.admin.dump import DumpOptions, DumpResult, part_path
from memcachepy.admin.dump import dump as dump_items
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


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@file_argument
@server_option
@prefix_option
@click.option("--resume", is_flag=True, help="Continue a dump that was interrupted.")
@click.option("--overwrite", is_flag=True, help="Replace FILE, and what was begun.")
@click.option(
    "--rate",
    "rate_mib_s",
    metavar="<MiB/s>",
    type=click.FloatRange(0, min_open=True),
    help="At most so many mebibytes of values a second.",
)
@timeout_option
@progress_option
@json_option
def dump(
    path: Path,
    address: Address,
    prefix: bytes,
    resume: bool,
    overwrite: bool,
    rate_mib_s: float | None,
    timeout_s: float,
    progress: bool | None,
    as_json: bool,
) -> None:
    """Write all items of a running node or memcached into FILE, with client flags and expiry.

    The server serves on meanwhile; what is stored while the dump runs may be in it or not. The file
    has its name only when it is whole; until then it is FILE.part.
    """
    options = DumpOptions(
        address,
        path,
        prefix,
        resume,
        overwrite,
        (rate_mib_s or 0) * (1 << 20),
        timeout_s,
    )
    try:
        with progress_bar("dump", progress) as show:
            result = dump_items(options, show)
    except KeyboardInterrupt:
        if part_path(path).exists():
            click.echo(f"interrupted; --resume continues {part_path(path)}", err=True)
        raise
    if as_json:
        click.echo(json.dumps(_json_of(result, options), indent=2))
    else:
        click.echo(_text_of(result, options))


def _json_of(result: DumpResult, options: DumpOptions) -> dict[str, object]:
    return {
        "source": str(options.address),
        "file": str(options.path),
        **asdict(result.totals),
        "file_bytes": result.file_bytes,
        "classes": result.classes,
        "resumed_classes": result.resumed_classes,
        "duration_s": round(result.duration_s, 3),
    }


def _text_of(result: DumpResult, options: DumpOptions) -> str:
    totals = result.totals
    text = (
        f"{numbers(totals.items)} items, {megabytes(totals.value_bytes)} of values, from "
        f"{options.address} in {options.path}"
    )
    left_out = [
        f"{numbers(count)} {what}"
        for count, what in (
            (totals.vanished, "gone before they were read"),
            (totals.stale, "marked stale"),
            (totals.unreadable, "that the text protocol cannot name"),
        )
        if count
    ]
    return text + ("; not in it: " + ", ".join(left_out) if left_out else "")
