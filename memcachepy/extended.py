"""memcached's list of extended options, `-o name,name=value,no_name`, as settings.

The settings themselves are rows of `config.SETTINGS`; here stand the list's form, what is taken
without being a setting, and what is refused with its reason.
"""

from collections.abc import Iterable, Mapping

from memcachepy.config import SETTINGS
from memcachepy.errors import ConfigError
from memcachepy.kinds import Switch

_TLS = "TLS is not offered yet"
_FLASH = "there is no tier on flash storage"
_PROXY = "there is no routing proxy"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ssl_chain_cert",
            "ssl_key",
            "ssl_keyformat",
            "ssl_verify_mode",
            "ssl_ciphers",
            "ssl_ca_cert",
            "ssl_wbuf_size",
            "ssl_session_cache",
            "ssl_kernel_tls",
            "ssl_min_version",
        ),
        _TLS,
    ),
    **dict.fromkeys(
        (
            "ext_path",
            "ext_page_size",
            "ext_wbuf_size",
            "ext_threads",
            "ext_io_depth",
            "ext_item_size",
            "ext_item_age",
            "ext_low_ttl",
            "ext_drop_unread",
            "ext_recache_rate",
            "ext_compact_under",
            "ext_drop_under",
            "ext_max_frag",
            "ext_max_sleep",
        ),
        _FLASH,
    ),
    **dict.fromkeys(("proxy_config", "proxy_arg", "proxy_uring", "proxy_memprofile"), _PROXY),
}
"""Names of memcached's that are not offered, and why."""

TAKEN = frozenset(
    {
        "modern",
        "no_modern",
        "hashexpand",
        "no_hashexpand",
        "no_chunked_items",
        "inline_ascii_resp",
        "no_inline_ascii_resp",
        "resp_obj_mem_limit",
        "relaxed_privileges",
        "no_relaxed_privileges",
        "sock_cookie_id",
    }
)
"""Names that are no settings: `no_modern` stands for several, the others have no effect at all."""

_NO_MODERN: Mapping[str, object] = {
    "slab_reassign": False,
    "slab_automove": 0,
    "lru_crawler": False,
    "lru_maintainer": False,
    "hash_algorithm": "jenkins",
    "slab_chunk_max": 1024,
    "maxconns_fast": False,
}

EXTENDED = {name: setting for name, setting in SETTINGS.items() if setting.is_extended}
_WITHOUT_VALUE: Mapping[str, object] = {"slab_automove": 1}
_NEGATED: Mapping[str, object] = {"slab_automove": 0}


def read_extended(texts: Iterable[str]) -> dict[str, object]:
    """Values by setting; of several for one the last counts.

    Args:
        texts: what followed each `-o`.

    Raises:
        ConfigError: a name is unknown or refused, or lacks its value.
    """
    values: dict[str, object] = {}
    for text in texts:
        for part in filter(None, text.split(",")):
            name, equals, value = part.partition("=")
            values |= _read_one(name, value if equals else None)
    return values


def _read_one(name: str, value: str | None) -> Mapping[str, object]:
    if name in REFUSED:
        raise ConfigError(name, _or_on(value), REFUSED[name], f"-o {name}")
    if name == "no_modern":
        return _NO_MODERN
    if name in TAKEN:
        return {}
    positive = name.removeprefix("no_")
    setting = EXTENDED.get(positive)
    is_negated = positive != name
    can_be_negated = setting and (isinstance(setting.kind, Switch) or positive in _NEGATED)
    if setting is None or (is_negated and not can_be_negated):
        raise UnknownExtended(name, _or_on(value), "there is no such option", "-o")
    if is_negated:
        return {positive: _NEGATED.get(positive, False)}
    if value is None:
        if not isinstance(setting.kind, Switch) and name not in _WITHOUT_VALUE:
            raise ConfigError(name, "", setting.kind.range, f"-o {name}")
        return {name: _WITHOUT_VALUE.get(name, True)}
    return {name: setting.read(value, f"-o {name}")}


def _or_on(value: str | None) -> str:
    return "on" if value is None else value


class UnknownExtended(ConfigError):
    """A name in the list that memcached does not know either."""
