"""The command `memcachepy`; click stays in this folder."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

import click

from memcachepy import __version__
from memcachepy.errors import MemcachepyError
from memcachepy.log import tell

_COMMANDS = (
    "serve",
    "cluster",
    "tool",
    "explain",
    "health",
    "dump",
    "restore",
    "bench",
    "simulate",
    "install-link",
)
"""Each a command of the module of that name in this folder, with _ for -."""


class _LazyGroup(click.Group):
    """Imports a subcommand only when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if importlib.util.find_spec(_module(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(_module(cmd_name))
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


def _module(command_name: str) -> str:
    return f"{__name__}.{command_name.replace('-', '_')}"


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """A memcached server of several processes over one shared-memory store."""


def main() -> None:
    """Run a subcommand and exit with its status; our errors become one line on stderr.

    Called by the name of memcached, behave as memcached.
    """
    if Path(sys.argv[0]).name == "memcached":
        importlib.import_module(f"{__name__}.memcached").main()
    try:
        status = cli.main(prog_name="memcachepy", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        status = os.EX_USAGE
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort:
        status = 130
    except MemcachepyError as error:
        tell(f"memcachepy: {error}")
        status = error.exit_status
    sys.exit(status if isinstance(status, int) else 0)
