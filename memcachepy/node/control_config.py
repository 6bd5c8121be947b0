"""What the control socket answers about configurations: those that `config get` tells clients.

A key is text, data are base64. Each function takes a request and returns what its answer says
beside `ok`.
"""

import base64
from collections.abc import Mapping

from memcachepy import _core


def config_get(segment: _core.Segment, request: Mapping[str, object]) -> dict[str, object]:
    """Raises ValueError or CoreError: the request is wrong, or cannot be answered now."""
    found = segment.get_config(_key_of(request))
    if found is None:
        return {"found": False}
    client_flags, data = found
    return {"found": True, "flags": client_flags, "data": base64.b64encode(data).decode()}


def config_set(segment: _core.Segment, request: Mapping[str, object]) -> dict[str, object]:
    """Raises as `config_get` does."""
    key, client_flags, data = _key_of(request), request.get("flags", 0), request.get("data")
    if type(client_flags) is not int or not 0 <= client_flags < 1 << 32:
        raise ValueError(f"flags: {client_flags!r}; the range is 0 to {(1 << 32) - 1}")
    if not isinstance(data, str):
        raise ValueError("data are missing, in base64")
    segment.set_config(key, client_flags, base64.b64decode(data, validate=True))
    return {}


def config_delete(segment: _core.Segment, request: Mapping[str, object]) -> dict[str, object]:
    """Raises as `config_get` does."""
    return {"found": segment.delete_config(_key_of(request))}


def _key_of(request: Mapping[str, object]) -> str:
    key = request.get("key")
    if not isinstance(key, str):
        raise ValueError("key is missing, as text")
    return key
