"""The load generator in C; `memcachepy bench` is its command."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

SETTINGS: Final[Mapping[str, tuple[int, int, int]]]
"""Every numeric setting of `run` with its smallest and largest value and its default.

Besides these: address (str: a numeric address, or a UNIX socket's path with port 0), key_prefix
(str) and zipf_exponent (float, 0: uniform).
"""

class LoadError(Exception):
    """The load could not run or did not get to its end; the message is a sentence for a person."""

def run(
    settings: Mapping[str, object],
    progress: Callable[[str, float, int, int], object] | None = None,
) -> dict[str, dict[str, Any] | None]:
    """Load a server from this thread, with the GIL released, until the load is done.

    Args:
        settings: what differs from the defaults.
        progress: called about five times a second with the phase (prefill, warmup, load), the
            seconds since it began, and its requests and errors until then. What it raises ends
            the run.

    Returns:
        A dict for each phase, None for a phase that was not asked for: the counters, wall_s,
        generator_cpu_s, send_delay_us_max, error_sample, wrong_sample (str or None) and
        latency_us (min, mean, p50, p90, p99, p99_9, max).

    Raises:
        ValueError: an unknown setting or a value out of range; names both.
        LoadError: no connection, no reply for timeout_ms, or no memory or descriptors.
        KeyboardInterrupt: within a fifth of a second after Ctrl-C, in the main thread.
    """

def make_value(key: int, value_bytes: int, /) -> bytes:
    """The value that a run stores for a key's number at a length."""

def sample_keys(key_count: int, zipf_exponent: float, seed: int, count: int, /) -> list[int]:
    """The key numbers that a run with these settings draws first."""

def percentiles(latencies_ns: Iterable[int], /) -> dict[str, float]:
    """What a run with these latencies would report as latency_us."""
