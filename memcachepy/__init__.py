"""A memcached server of several processes over one shared-memory store."""

__version__ = "0.1.0"
