"""What a node remembers of its cluster over restarts: its own id, and the last list it knew.

A file of JSON, replaced whole by the node's discovery process, which is its only writer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from memcachepy.atomic_file import replace_file
from memcachepy.errors import ConfigError, MembershipError
from memcachepy.membership.url import Place, parse_url
from memcachepy.topology import Topology


@dataclass(frozen=True, slots=True)
class LastKnown:
    """What stands in the file."""

    provider: str = ""
    """The URL that the list came from."""
    node_id: str = ""
    topology: Topology = field(default_factory=lambda: Topology(0))


def read_last_known(path: Path | None) -> LastKnown:
    """Empty if there is no such file, or none is kept.

    Raises:
        MembershipError: it cannot be read, or is no such file.
    """
    if path is None:
        return LastKnown()
    try:
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, Mapping):
            raise ValueError("it is no JSON object")
        topology = Topology.from_dict(raw)
    except FileNotFoundError:
        return LastKnown()
    except OSError as error:
        raise MembershipError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise MembershipError(f"{path} is no list of nodes: {error}") from None
    return LastKnown(str(raw.get("provider", "")), str(raw.get("node_id", "")), topology)


def known_of(place: Place, known: LastKnown) -> LastKnown:
    """What of it may be told in this cluster: of another one only the version, not to fall below.

    A list that came from a provider of another kind is taken for this cluster's: it has moved.
    """
    try:
        other = parse_url(known.provider)
    except ConfigError:
        return known
    if type(other) is not type(place) or other.cluster == place.cluster:
        return known
    return LastKnown(known.provider, known.node_id, Topology(known.topology.version))


def write_last_known(path: Path | None, known: LastKnown) -> None:
    """Raises MembershipError: it cannot be written."""
    if path is not None:
        about = {"provider": known.provider, "node_id": known.node_id}
        text = json.dumps({**about, **known.topology.as_dict()}, indent=1)
        replace_file(path, text.encode() + b"\n", MembershipError)
