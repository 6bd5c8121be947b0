"""What is measured: the loads, as settings of the generator, and the bars of each."""

from collections.abc import Mapping
from dataclasses import dataclass, field

KEY_COUNT = 100_000
CONNECTION_COUNT = 50
VALUE_BYTES = 100
MEMORY_MB = 1024

OWN_GETS = "memcachepy with gets"
"""Of a round of a scenario with `against_get`."""
MG_BAR = 1.10
"""The largest allowed ratio of server CPU per mg to that per get."""

PRIVATE_DIRTY_BYTES_BAR = 5_000_000
"""Per worker, under load."""


@dataclass(frozen=True)
class Scenario:
    """One load, given to each server in turn.

    Args:
        name: for the command line and the results.
        title: for the table.
        bar: the largest allowed ratio of server CPU per request to memcached's; None: none set.
        goal: the ratio aimed at.
        unix: over a UNIX socket instead of TCP.
        key_count: how many keys are set before, and drawn from.
        memory_mb: -m of each server.
        load: further settings of the generator.
        memcached_load: settings that differ when memcached is the server.
        against_get: memcachepy is also given gets in each round, to say what mg costs beside them.
    """

    name: str
    title: str
    bar: float | None = None
    goal: float | None = None
    unix: bool = False
    key_count: int = KEY_COUNT
    memory_mb: int = MEMORY_MB
    load: Mapping[str, int] = field(default_factory=dict)
    memcached_load: Mapping[str, int] = field(default_factory=dict)
    against_get: bool = False

    def settings(self, kind: str) -> dict[str, object]:
        """The generator's settings for a server, without target and duration."""
        return {
            "connection_count": CONNECTION_COUNT,
            "key_count": self.key_count,
            "value_bytes_min": VALUE_BYTES,
            "value_bytes_max": VALUE_BYTES,
            **self.load,
            **(self.memcached_load if kind == "memcached" else {}),
            # The floor's reply is that to a get.
            **({"meta": 0} if kind in ("floor", OWN_GETS) else {}),
        }


_SETS = {"set_share": 1, "get_share": 0}

SCENARIOS = (
    Scenario("get", "get, one at a time", bar=0.85, goal=0.80),
    Scenario("get-16", "16 pipelined gets", bar=0.60, goal=0.45, load={"pipeline_depth": 16}),
    Scenario("multiget-16", "one get of 16 keys", bar=0.60, goal=0.45, load={"keys_per_get": 16}),
    Scenario("get-64", "64 pipelined gets", bar=0.35, goal=0.22, load={"pipeline_depth": 64}),
    Scenario(
        "mix", "set:get 1:10, one at a time", bar=0.90, load={"set_share": 1, "get_share": 10}
    ),
    Scenario("unix-get", "get over a UNIX socket, one at a time", bar=0.75, unix=True),
    Scenario("reconnect", "connect, one get, close", bar=1.3, load={"reconnect": 1}),
    Scenario("set", "set, one at a time", load=_SETS),
    Scenario("set-16", "16 pipelined sets", load={**_SETS, "pipeline_depth": 16}),
    # Debian 12's memcached 1.6.18 sends the reply to each pipelined get by itself, but those to mg
    # together: this is what it costs where it does batch.
    Scenario(
        "get-16-mg",
        "16 pipelined gets against memcached's mg",
        load={"pipeline_depth": 16},
        memcached_load={"meta": 1},
    ),
    Scenario(
        "get-64-mg",
        "64 pipelined gets against memcached's mg",
        load={"pipeline_depth": 64},
        memcached_load={"meta": 1},
    ),
    Scenario("mg", "mg with a value, one at a time", load={"meta": 1}, against_get=True),
    Scenario(
        "mg-16",
        "16 pipelined mg with values",
        load={"meta": 1, "pipeline_depth": 16},
        against_get=True,
    ),
    Scenario(
        "unix-get-16", "16 pipelined gets, UNIX socket", unix=True, load={"pipeline_depth": 16}
    ),
    Scenario(
        "keys-10k",
        "16 pipelined gets of 10,000 keys",
        key_count=10_000,
        load={"pipeline_depth": 16},
    ),
    Scenario(
        "keys-1m",
        "16 pipelined gets of 1,000,000 keys",
        key_count=1_000_000,
        load={"pipeline_depth": 16},
    ),
    Scenario(
        "keys-10m",
        "16 pipelined gets of 10,000,000 keys",
        key_count=10_000_000,
        memory_mb=4096,
        load={"pipeline_depth": 16},
    ),
)
