"""Replaying traces of keys against the real store: what a cache of some size would miss.

    trace = Trace("keys.txt")
    configs = [CacheConfig(memory_bytes=size << 20) for size in (16, 64, 256)]
    for figures in simulate(trace.requests(), configs):
        print(figures.config.memory_bytes, figures.miss_ratio)

A trace is read once for all caches and never held as a whole. Each cache is a segment of its own in
this process: the store, the slab classes and the eviction of a node, without its sockets.
"""

from memcachepy.simulate.cache import Cache, CacheConfig, CacheFigures, SimulationError, simulate
from memcachepy.simulate.footprint import Footprint, measure_footprint
from memcachepy.simulate.plot import plot_curves, plot_panels
from memcachepy.simulate.requests import Requests
from memcachepy.simulate.stream import TraceError
from memcachepy.simulate.trace import FORMATS, Trace

__all__ = [
    "FORMATS",
    "Cache",
    "CacheConfig",
    "CacheFigures",
    "Footprint",
    "Requests",
    "SimulationError",
    "Trace",
    "TraceError",
    "measure_footprint",
    "plot_curves",
    "plot_panels",
    "simulate",
]
