"""Why a key is or is not in a node: asked over its control socket, answered in words."""

import os
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from memcachepy.cache.handshake import connect_to_node
from memcachepy.errors import AttachError, NodeRefuses, NodeUnreachable
from memcachepy.node.rendezvous import LINE_BYTES_MAX, decode, encode

_BUSY_PAUSE_S = 0.01

_DEPARTURES = {
    "deleted": "it was deleted {ago}",
    "refused": "a set that the node refused, too large or for want of memory, removed it {ago}",
    "expired": "it expired {ago}",
    "flushed": "it was flushed, and reclaimed {ago}",
    "evicted_probation": "it was evicted {ago} from probation, the queue of new items, in which it "
    "was not asked for",
    "evicted_main": "it was evicted {ago} from the main part, where it had not been asked for in a "
    "long time",
    "evicted_page_move": "it was evicted {ago} because its page went to another slab class",
    "evicted_donation": "it was evicted {ago} because its page went to another shard",
    "evicted_table": "it was evicted {ago} because its page went to the hash table",
    "evicted_shrink": "it was evicted {ago} because its page went back to the host",
    "chain_evictions": "it was evicted {ago} because its chain in the hash table was full",
}


def ask_node(
    address: str | os.PathLike[str] | int | None, key: bytes, timeout_s: float
) -> dict[str, Any]:
    """What the node says of the key: the answer to `explain`, see memcachepy/node/README.md.

    Args:
        address: as of `Cache.attach`.
        key: 1 to 250 bytes.
        timeout_s: for all of it.

    Raises:
        NodeUnreachable: no node answers there, or not in time.
        NodeRefuses: it does not take the question.
    """
    deadline_s = time.monotonic() + timeout_s
    request = encode({"op": "explain", "key": b64encode(key).decode()})
    try:
        connection, path = connect_to_node(address, deadline_s)
    except AttachError as error:
        raise NodeUnreachable(str(error)) from None
    try:
        with connection, connection.makefile("rb") as answers:
            while True:
                connection.settimeout(max(0.001, deadline_s - time.monotonic()))
                connection.sendall(request)
                line = answers.readline(LINE_BYTES_MAX)
                if not line:
                    raise NodeUnreachable(f"the node at {path} hung up")
                answer = decode(line)
                if not answer.pop("ok", False):
                    raise NodeRefuses(f"the node at {path} refuses: {answer.get('error')}")
                if answer.get("state") != "busy":
                    del answer["v"]
                    return answer
                time.sleep(_BUSY_PAUSE_S)
    except TimeoutError:
        raise NodeUnreachable(f"the node at {path} does not answer in time") from None
    except (OSError, ValueError) as error:
        raise NodeUnreachable(f"the node at {path} does not answer as it should: {error}") from None


def sentence(key: str, answer: Mapping[str, Any]) -> str:
    """The answer for a person."""
    state = answer["state"]
    if state == "stored":
        return f"{key} is stored: {_item(answer)}."
    if state == "expired":
        ago = _ago(answer["ttl_s"])
        return f"{key} is not there: it expired {ago}; its memory is not reclaimed yet."
    if state == "flushed":
        return f"{key} is not there: it was flushed; its memory is not reclaimed yet."
    if state == "gone":
        how = _DEPARTURES.get(answer["how"], f"{answer['how']} {{ago}}")
        fetched = "was" if answer["fetched"] else "was never"
        return (
            f"{key} is not there: {how.format(ago=_ago(answer['ago_s']))}. "
            f"It {fetched} asked for after it was stored."
        )
    reach = duration(answer["remembers_s"])
    if answer["in_ghost"]:
        return (
            f"{key} is not there: it was probably evicted more than {reach} ago, from probation or "
            "with its page. Asked for again, it will be kept longer."
        )
    return (
        f"{key} is not there, and as far as the node remembers, {reach} back, it was not: never "
        "stored, or gone before."
    )


def _item(answer: Mapping[str, Any]) -> str:
    ttl_s = answer["ttl_s"]
    part = "in probation" if answer["probation"] else "in the main part"
    chained = " in a chain of chunks" if answer["chained"] else ""
    access = duration(answer["last_access_s"])
    fetched = "asked for since" if answer["fetched"] else "not asked for yet"
    return (
        f"{answer['value_len']} bytes of value, {answer['item_bytes']} with key and header, in "
        f"slab class {answer['class_id']}{chained} of shard {answer['shard']}; client flags "
        f"{answer['client_flags']}; "
        + ("never expires" if ttl_s < 0 else f"expires in {duration(ttl_s)}")
        + (", but is marked stale" if answer.get("stale") else "")
        + f"; {fetched}, last access {access} ago; {part}"
    )


def _ago(seconds: int) -> str:
    return "just now" if seconds == 0 else f"{duration(seconds)} ago"


def duration(seconds: int) -> str:
    """In the largest unit that gives at least two of it."""
    for unit_s, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit_s:
            return f"{seconds // unit_s} {name}"
    return f"{seconds} second{'' if seconds == 1 else 's'}"
