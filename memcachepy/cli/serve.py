"""`memcachepy serve`: memcached's letters and long names, made from the table of settings."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from memcachepy import __version__
from memcachepy.config import SETTINGS, Setting, resolve
from memcachepy.extended import EXTENDED, TAKEN, read_extended
from memcachepy.kinds import Addresses, Switch
from memcachepy.node.boot import run_node

NOT_OFFERED = {
    # Letter, long name, whether it takes a value, and why or what to do instead.
    "-S": ("--enable-sasl", False, "there is no authentication yet"),
    "-Y": ("--auth-file", True, "there is no authentication yet"),
    "-Z": ("--enable-ssl", False, "TLS is not offered yet"),
    "-e": ("--memory-file", True, "items do not outlive the node yet"),
}
"""Letters of memcached's that are refused."""

LICENSE = """\
memcachepy is licensed under the BSD 3-Clause License.

Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the conditions of that license are met; it comes without any warranty. The whole
text is in the file LICENSE of the distribution.
"""


def _refuse(_ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value not in (None, False):
        letter, long_name = param.opts
        reason = NOT_OFFERED[letter][2]
        raise click.UsageError(f"{letter} ({long_name}) of memcached is not offered here: {reason}")


def _show_license(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        click.echo(LICENSE, nl=False)
        ctx.exit()


def _refused_option(letter: str) -> click.Option:
    long_name, takes_value, _ = NOT_OFFERED[letter]
    how: dict[str, Any] = {"is_flag": False, "flag_value": ""} if takes_value else {"is_flag": True}
    return click.Option(
        [letter, long_name],
        **how,
        hidden=True,
        is_eager=True,
        expose_value=False,
        callback=_refuse,
    )


def setting_option(setting: Setting) -> click.Option:
    how: dict[str, Any] = {"metavar": setting.kind.metavar}
    if isinstance(setting.kind, Switch):
        how = {"is_flag": True}
    elif isinstance(setting.kind, Addresses):
        how |= {"multiple": True}
    elif setting.letter == "v":
        how = {"count": True}
    shown = f" [{setting.default_text}]" if setting.default_text not in ("", "False") else ""
    names = [*dict.fromkeys((setting.short_flag, setting.flag)), setting.name]
    if setting.name == "napi_ids":
        names.append("--napi_ids")  # The one long name of memcached's with an underscore.
    return click.Option(names, help=setting.help + shown, **how)


def extended_option(where: str) -> click.Option:
    return click.Option(
        ["-o", "--extended"],
        multiple=True,
        metavar="<list>",
        help=f"more settings, as name, name=value or no_name with commas between; {where}",
    )


def _extended_help() -> str:
    """One paragraph for what is offered, one for what is only accepted."""
    offered = [
        f"  {name}: {setting.help}" + (f" [{setting.default_text}]" if setting.default_text else "")
        for name, setting in EXTENDED.items()
        if setting.has_effect
    ]
    ignored = [name for name, setting in EXTENDED.items() if not setting.has_effect]
    ignored += sorted(TAKEN - {"no_modern"})
    return (
        "\b\nNames for -o; a switch is turned off with no_ before its name:\n"
        + "\n".join(offered)
        + "\n  no_modern: the defaults of memcached 1.4\n\n"
        + f"Accepted without effect: -N, and for -o {', '.join(ignored)}."
    )


def given_settings(extended: tuple[str, ...], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Of a command with these options: only what was given, by the names of settings."""
    ctx = click.get_current_context()
    given = {
        name: value
        for name, value in flags.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    return given | read_extended(extended)


def _serve(config: Path | None, extended: tuple[str, ...], **flags: Any) -> int:
    node_config, warnings = resolve(given_settings(extended, flags), os.environ, config)
    return run_node(node_config, warnings)


serve = click.Command(
    "serve",
    callback=_serve,
    help="Run a node until SIGTERM or SIGINT.",
    epilog="Each of these is also an environment variable (MEMCACHEPY_MEMORY_LIMIT) and a key of "
    "the TOML file (memory_limit). A flag beats the environment, which beats the file.\n\n"
    + _extended_help(),
    params=[
        *(setting_option(setting) for setting in SETTINGS.values() if not setting.is_extended),
        extended_option("see below"),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="<file>",
            help="TOML file with settings [MEMCACHEPY_CONFIG]",
        ),
        *map(_refused_option, NOT_OFFERED),
        click.Option(
            ["-i", "--license"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_license,
            help="print the license and exit",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(
    __version__, "-V", "--version", prog_name="memcachepy", message="%(prog)s %(version)s"
)(serve)
