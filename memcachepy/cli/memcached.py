"""`memcached`: memcached's own command line, for whom calls this program by that name.

The same settings as `memcachepy serve`, with memcached's defaults, its way of reading numbers, the
sentences that scripts look for, and its exit statuses.
"""

import getopt
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from memcachepy import _core
from memcachepy.cli.serve import LICENSE, NOT_OFFERED
from memcachepy.config import SETTINGS, Setting, resolve
from memcachepy.errors import ConfigError, ListenError, MemcachepyError, UnknownUser
from memcachepy.extended import EXTENDED, REFUSED, UnknownExtended, read_extended
from memcachepy.kinds import Addresses, Decimal, Switch, Whole
from memcachepy.log import tell
from memcachepy.node.boot import run_node

NAME = "memcached"
_DEFAULTS = {"listen": "*", "threads": 4}
_STATUS_ILLEGAL = 1
_HELP_COLUMN = 26
_HELP = {
    # Where it means something else than with `memcachepy serve`.
    "unix_socket": "UNIX socket to listen on (disables network support)",
    "verbose": "log routine events, not only what is wrong",
    "napi_ids": "number of napi ids (no effect)",
}

_SENTENCES = {
    # What memcached says, by setting, and its exit status.
    "port": ("ERROR: Invalid port number {value}.", os.EX_USAGE),
    "conn_limit": ("Maximum connections must be greater than 0", _STATUS_ILLEGAL),
    "threads": ("Number of threads must be greater than 0", _STATUS_ILLEGAL),
    "max_reqs_per_event": (
        "Number of requests per event must be greater than 0",
        _STATUS_ILLEGAL,
    ),
    "slab_growth_factor": ("Factor must be greater than 1", _STATUS_ILLEGAL),
    "slab_min_size": ("Chunk size must be greater than 0", _STATUS_ILLEGAL),
    "protocol": (
        "Invalid value for binding protocol: {value}\n"
        " -- should be one of auto, binary, or ascii",
        os.EX_USAGE,
    ),
}


def main() -> NoReturn:
    """Run a node as memcached would be run, and exit with its status."""
    sys.exit(_main(sys.argv[1:]))


def _main(words: Sequence[str]) -> int:
    try:
        flags = _read(words)
        if isinstance(flags, str):
            sys.stdout.write(flags)
            return 0
        node_config, warnings = resolve(flags, os.environ, defaults=_DEFAULTS)
        if os.geteuid() == 0 and node_config.user is None:
            tell("can't run as root without the -u switch")
            return os.EX_USAGE
        return run_node(node_config, warnings, is_quiet=True)
    except _Illegal as error:
        tell(f'{NAME}: {error}\nIllegal argument "?"')
        return _STATUS_ILLEGAL
    except UnknownExtended as error:
        tell(f'Illegal suboption "{error.name}"')
        return _STATUS_ILLEGAL
    except ConfigError as error:
        sentence, status = _in_memcacheds_words(error)
        tell(sentence)
        return status
    except UnknownUser:
        tell(f"can't find the user {node_config.user} to switch to")
        return os.EX_NOUSER
    except ListenError as error:
        what = _what_is_listened_on(words, node_config.port, node_config.unix_socket)
        tell(f"failed to listen on {what}: {error.reason}\n{error}")
        return os.EX_OSERR
    except MemcachepyError as error:
        tell(str(error))
        return error.exit_status


class _Illegal(Exception):
    """A word that is no option, or an option without its value."""


def _read(words: Sequence[str]) -> dict[str, object] | str:
    """What was given, by setting; or the text to print instead."""
    flags: dict[str, object] = {}
    extended: list[str] = []
    listen: list[str] = []
    by_option = {option: s for s in _own_settings() for option in (f"-{s.letter}", s.flag)}
    for option, value in _split(words):
        setting = by_option.get(option.replace("_", "-"))
        if option in ("-h", "--help"):
            return help_text()
        if option in ("-V", "--version"):
            return f"{NAME} {_core.PROTOCOL_VERSION}\n"
        if option in ("-i", "--license"):
            return f"{NAME} {_core.PROTOCOL_VERSION}\n\n{LICENSE}"
        if option in ("-o", "--extended"):
            extended.append(value)
        elif setting is None:
            _refuse(option, value)
        elif isinstance(setting.kind, Switch):
            flags[setting.name] = True
        elif isinstance(setting.kind, Addresses):
            listen.append(value)
        elif setting.name == "verbose":
            flags["verbose"] = min(int(str(flags.get("verbose", 0))) + 1, 3)
        else:
            flags[setting.name] = _as_memcached_reads(setting, value)
    if listen:
        flags["listen"] = tuple(listen)
    if "unix_socket" in flags:
        flags |= {"port": 0, "listen": "*"}
    if os.geteuid() != 0:
        flags.pop("user", None)  # Only root can become somebody else, and only root is asked to.
    return flags | read_extended(extended)


def _own_settings() -> list[Setting]:
    return [setting for setting in SETTINGS.values() if not setting.is_extended]


def _split(words: Sequence[str]) -> list[tuple[str, str]]:
    """As getopt_long() does: letters together, long names shortened, words between ignored."""
    letters = "hVio:"
    names = ["help", "version", "license", "extended="]
    options = [(s.letter, s.flag, _takes_value(s)) for s in _own_settings()]
    options += [(letter[1], long, takes) for letter, (long, takes, _) in NOT_OFFERED.items()]
    for letter, flag, takes_value in options:
        letters += (letter + ":" * takes_value) if letter else ""
        names.append(flag[2:] + "=" * takes_value)
        names += ["napi_ids="] if flag == "--napi-ids" else []
    try:
        return getopt.gnu_getopt(list(words), letters, names)[0]
    except getopt.GetoptError as error:
        is_long = len(error.opt) > 1
        if "requires argument" in error.msg:
            what = f"option '--{error.opt}' requires" if is_long else "option requires"
            tail = "" if is_long else f" -- '{error.opt}'"
            raise _Illegal(f"{what} an argument{tail}") from None
        if is_long:
            raise _Illegal(f"unrecognized option '--{error.opt}'") from None
        raise _Illegal(f"invalid option -- '{error.opt}'") from None


def _takes_value(setting: Setting) -> bool:
    return not isinstance(setting.kind, Switch) and setting.name != "verbose"


def _refuse(option: str, value: str) -> NoReturn:
    for letter, (long_name, _, reason) in NOT_OFFERED.items():
        if option in (letter, long_name):
            raise ConfigError(long_name[2:].replace("-", "_"), value or "on", reason, letter)
    raise AssertionError(option)


def _as_memcached_reads(setting: Setting, value: str) -> object:
    """By atoi(), atof() and the first character: what follows is not looked at."""
    if setting.letter == "D":
        return value[:1]
    if setting.letter == "t":
        return min(int(_leading(value, r"[+-]?[0-9]+")), _core.WORKERS_MAX)
    if isinstance(setting.kind, Whole):
        return _leading(value, "[+-]?[0-7]+" if setting.kind.base == 8 else "[+-]?[0-9]+")
    if isinstance(setting.kind, Decimal):
        return _leading(value, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)")
    return value


def _leading(value: str, pattern: str) -> str:
    found = re.match(rf"\s*({pattern})", value)
    return found[1] if found else "0"


def _in_memcacheds_words(error: ConfigError) -> tuple[str, int]:
    if error.name in EXTENDED or error.name in REFUSED:
        if error.value == "" and error.name in EXTENDED:
            return f"Missing numeric argument for {error.name}", _STATUS_ILLEGAL
        return str(error), _STATUS_ILLEGAL
    if error.name == "max_item_size":
        if isinstance(error.value, str) and not re.fullmatch(
            "0*[0-9]{4,}|0*[1-9][0-9]*[kKmM]", error.value
        ):
            return "Item max size cannot be less than 1024 bytes.", os.EX_USAGE
        return "Cannot set item size limit higher than 1/2 of memory max.", os.EX_USAGE
    if error.name == "memory_limit" and str(error.value) == "0":
        return "Cannot set item size limit higher than 1/2 of memory max.", os.EX_USAGE
    if error.name in _SENTENCES and (error.name, str(error.value)) != ("port", "0"):
        sentence, status = _SENTENCES[error.name]
        return sentence.format(value=error.value), status
    return str(error), error.exit_status


def _what_is_listened_on(words: Sequence[str], port: int, unix_socket: str | None) -> str:
    if unix_socket:
        return f"UNIX socket: {unix_socket}"
    given = [value for option, value in _split(words) if option in ("-l", "--listen")]
    return f"one of interface(s) {','.join(given)}" if given else f"TCP port {port}"


# ---- help ----------------------------------------------------------------------------------------


def help_text() -> str:
    """Every option that is offered, one line each, in memcached's form."""
    lines = [f"{NAME} {_core.PROTOCOL_VERSION}"]
    for setting in _own_settings():
        if setting.letter:
            lines.append(_help_line(setting))
        if setting.letter == "v":
            lines += [_line("-vv", "the core's as well"), _line("-vvv", "the same")]
    lines += [
        _line("-h, --help", "print this help and exit"),
        _line("-i, --license", "print the license and exit"),
        _line("-V, --version", "print version and exit"),
        _line("-o, --extended", "comma separated list of extended options"),
    ]
    for name, setting in EXTENDED.items():
        if name != "drop_privileges":  # Whoever reads that in here expects a sandbox.
            lines.append(f"   - {name + ':':<20} {setting.help}{_default(setting)}")
    lines += [
        f"   - {'no_' + name + ':':<21}the opposite of {name}"
        for name, setting in EXTENDED.items()
        if isinstance(setting.kind, Switch) and name != "drop_privileges"
    ]
    lines += [
        "   - modern:              no change",
        "   - no_modern:           the defaults of 1.4",
        "Beyond memcached:",
        *(_help_line(setting) for setting in _own_settings() if not setting.letter),
        "All of these but the license can be set in the environment: see memcachepy serve -h",
    ]
    return "\n".join(lines) + "\n"


def _help_line(setting: Setting) -> str:
    value = f"={setting.kind.metavar}" if _takes_value(setting) else ""
    names = f"-{setting.letter}, {setting.flag}" if setting.letter else setting.flag
    return _line(names + value, _HELP.get(setting.name, setting.help) + _default(setting))


def _line(names: str, text: str) -> str:
    return f"{names:<{_HELP_COLUMN - 1}} {text}"


def _default(setting: Setting) -> str:
    shown = str({"listen": "INADDR_ANY"}.get(setting.name, _DEFAULTS.get(setting.name, "")))
    shown = shown or setting.default_text
    if (
        setting.name in ("verbose", "udp_port")
        or shown in ("", "False", "True")
        or not setting.has_effect
    ):
        return ""
    return f" (default: {shown})"
