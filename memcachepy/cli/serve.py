"""`memcachepy serve`: memcached's letters and long names, made from the table of settings."""

import os
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from memcachepy import __version__
from memcachepy.config import SETTINGS, Addresses, Setting, Switch, resolve
from memcachepy.node.boot import run_node

_NOT_OFFERED = {
    # Letter, long name, whether it takes a value, and what to do instead.
    "-d": ("--daemon", False, "run it under a service manager"),
    "-P": ("--pidfile", True, "run it under a service manager"),
    "-k": ("--lock-memory", False, ""),
    "-r": ("--enable-coredumps", False, "use ulimit -c"),
    "-D": ("--stat-key-prefix", True, ""),
    "-B": ("--protocol", True, "only the text protocol is spoken"),
    "-S": ("--enable-sasl", False, ""),
    "-X": ("--disable-dumping", False, ""),
    "-W": ("--disable-watch", False, ""),
    "-Y": ("--auth-file", True, ""),
    "-e": ("--memory-file", True, ""),
    "-Z": ("--enable-ssl", False, ""),
    "-N": ("--napi-ids", True, ""),
    "-o": ("--extended", True, ""),
    "-i": ("--license", False, "it is BSD-3-Clause"),
}


def _refuse(_ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value not in (None, False):
        letter, long_name = param.opts
        remedy = _NOT_OFFERED[letter][2]
        advice = f"; {remedy}" if remedy else ""
        raise click.UsageError(f"{letter} ({long_name}) of memcached is not offered here{advice}")


def _refused_option(letter: str) -> click.Option:
    long_name, takes_value, _ = _NOT_OFFERED[letter]
    how: dict[str, Any] = {"is_flag": False, "flag_value": ""} if takes_value else {"is_flag": True}
    return click.Option(
        [letter, long_name],
        **how,
        hidden=True,
        is_eager=True,
        expose_value=False,
        callback=_refuse,
    )


def _option(setting: Setting) -> click.Option:
    how: dict[str, Any] = {"metavar": setting.kind.metavar}
    if isinstance(setting.kind, Switch):
        how = {"is_flag": True}
    elif isinstance(setting.kind, Addresses):
        how |= {"multiple": True}
    elif setting.letter == "v":
        how = {"count": True}
    shown = f" [{setting.default_text}]" if setting.default_text not in ("", "False") else ""
    names = [*dict.fromkeys((setting.short_flag, setting.flag)), setting.name]
    return click.Option(names, help=setting.help + shown, **how)


def _serve(config: Path | None, **flags: Any) -> int:
    ctx = click.get_current_context()
    given = {
        name: value
        for name, value in flags.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    node_config, warnings = resolve(given, os.environ, config)
    return run_node(node_config, warnings)


serve = click.Command(
    "serve",
    callback=_serve,
    help="Run a node until SIGTERM or SIGINT.",
    epilog="Each of these is also an environment variable (MEMCACHEPY_MEMORY_LIMIT) and a key of "
    "the TOML file (memory_limit). A flag beats the environment, which beats the file.",
    params=[
        *map(_option, SETTINGS.values()),
        click.Option(
            ["--config"],
            type=click.Path(path_type=Path),
            metavar="<file>",
            help="TOML file with settings [MEMCACHEPY_CONFIG]",
        ),
        *map(_refused_option, _NOT_OFFERED),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(
    __version__, "-V", "--version", prog_name="memcachepy", message="%(prog)s %(version)s"
)(serve)
