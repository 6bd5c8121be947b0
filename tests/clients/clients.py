"""The clients of which the facts are asked, by the names of their packages."""

from adapter import Adapter
from asyncio_clients import Aiomcache, Emcache
from binary_clients import Bmemcached, PylibmcBinary
from classic_clients import Pylibmc, Pymemcache, PythonMemcached
from meta_clients import MetaMemcache

CLIENTS: dict[str, type[Adapter]] = {
    "pymemcache": Pymemcache,
    "python-memcached": PythonMemcached,
    "pylibmc": Pylibmc,
    "aiomcache": Aiomcache,
    "emcache": Emcache,
    "pylibmc-binary": PylibmcBinary,
    "python-binary-memcached": Bmemcached,
    "meta-memcache": MetaMemcache,
}
