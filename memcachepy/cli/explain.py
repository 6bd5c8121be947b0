"""`memcachepy explain`: why a key is or is not in a node."""

import binascii
import json
from base64 import b64decode
from pathlib import Path

import click

from memcachepy.admin.client import KEY_LEN_MAX, key_of_argument
from memcachepy.admin.explain import ask_node, sentence
from memcachepy.cli._admin import json_option

EXIT_ABSENT = 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("key", metavar="KEY")
@click.option("--base64", "is_base64", is_flag=True, help="KEY is base64.")
@click.option(
    "-p", "--port", metavar="<port>", type=click.IntRange(1, 65535), help="The node's TCP port."
)
@click.option(
    "--control-socket",
    type=click.Path(path_type=Path),
    metavar="<path>",
    help="The node's control socket, where it is not the port's.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="<s>",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)
@json_option
def explain(
    key: str,
    is_base64: bool,
    port: int | None,
    control_socket: Path | None,
    timeout_s: float,
    as_json: bool,
) -> int:
    """Say where KEY is in a node of this machine, or why it is not there.

    The node remembers the last 4,096 items that left each of its shards, and how. The exit status
    is 0 when the key is stored, 1 when it is not.
    """
    if port is not None and control_socket is not None:
        raise click.UsageError("--port and --control-socket exclude each other")
    try:
        data = b64decode(key, validate=True) if is_base64 else key_of_argument(key)
    except binascii.Error:
        raise click.BadParameter(f"{key} is not base64", param_hint="KEY") from None
    if not 1 <= len(data) <= KEY_LEN_MAX:
        raise click.BadParameter(f"a key has 1 to {KEY_LEN_MAX} bytes", param_hint="KEY")
    answer = ask_node(control_socket or port, data, timeout_s)
    if as_json:
        click.echo(json.dumps({"key": key, **answer}))
    else:
        click.echo(sentence(key, answer))
    return 0 if answer["state"] == "stored" else EXIT_ABSENT
