"""What memcached-tool shows of a server, as data and as the same columns of text."""

from collections.abc import Iterator, Sequence

from memcachepy.admin.client import Address, Listed, NodeConnection, is_plain, text_of
from memcachepy.errors import NodeRefuses

_BATCH_KEYS = 64

Slabs = dict[int, dict[str, int]]
"""By slab class what `stats items` and `stats slabs` say of it."""


def slabs(connection: NodeConnection) -> Slabs:
    """The classes that have pages."""
    found: Slabs = {}
    for name, value in connection.stats("items").items():
        parts = name.split(":")
        if len(parts) == 3 and value.isdecimal():
            found.setdefault(int(parts[1]), {})[parts[2]] = int(value)
    for name, value in connection.stats("slabs").items():
        class_id, _, field = name.partition(":")
        if field and value.isdecimal():
            found.setdefault(int(class_id), {})[field] = int(value)
    return {n: found[n] for n in sorted(found) if found[n].get("total_pages", 0) > 0}


def render_slabs(classes: Slabs) -> str:
    lines = ["  #  Item_Size  Max_age   Pages   Count   Full?  Evicted Evict_Time OOM"]
    for class_id, of in classes.items():
        chunk = of.get("chunk_size", 0)
        size = f"{chunk}B" if chunk < 1024 else f"{chunk / 1024:.1f}K"
        full = "yes" if of.get("used_chunks") == of.get("total_chunks") else " no"
        lines.append(
            f"{class_id:3d} {size:>8} {of.get('age', 0):9d}s {of.get('total_pages', 0):7d} "
            f"{of.get('number', 0):7d} {full:>7} {of.get('evicted', 0):8d} "
            f"{of.get('evicted_time', 0):8d} {of.get('outofmemory', 0):4d}"
        )
    return "\n".join(lines)


def render_stats(address: Address, stats: dict[str, str]) -> str:
    lines = [f"#{address!s:<22} {'Field':>5} {'Value':>13}"]
    lines += [f"{name:>29} {stats[name]:>13}" for name in sorted(stats)]
    return "\n".join(lines)


def render_settings(address: Address, settings: dict[str, str]) -> str:
    return _narrow(address, "Field", "Value", settings)


def render_sizes(address: Address, sizes: dict[str, str]) -> str:
    return _narrow(address, "Size", "Count", sizes)


def _narrow(address: Address, left: str, right: str, rows: dict[str, str]) -> str:
    lines = [f"#{address!s:<17} {left:>5} {right:>11}"]
    lines += [f"{name:>24} {rows[name]:>11}" for name in sorted(rows)]
    return "\n".join(lines)


def listed(
    connection: NodeConnection, prefix: bytes = b"", limit: int | None = None
) -> Iterator[tuple[bytes, Listed]]:
    """Each item's line of `metadump` with what it says, as long as the server lists them."""
    count = 0
    for line in connection.listing():
        item = Listed.parse(line)
        if item.key.startswith(prefix):
            yield line, item
            count += 1
            if count == limit:
                return


def render_listed(item: Listed, now_s: float) -> str:
    """A row of `keys --prefix`: seconds to live, bytes as the server counts them, and the key."""
    ttl = "never" if item.expire_at_s == 0 else str(max(0, item.expire_at_s - int(now_s)))
    return f"{ttl:>12} {item.size_bytes:>12}  {key_text(item)}"


def key_text(item: Listed) -> str:
    """The key for people: as it is if it is text, else URI-encoded as the server lists it."""
    text = item.key.decode("utf-8", "replace")
    return text if text.isprintable() and "\ufffd" not in text else item.fields["key"]


LISTED_HEADING = f"{'TTL':>12} {'Size':>12}  Key"


def add_commands(
    connection: NodeConnection, items: Sequence[Listed]
) -> Iterator[tuple[bytes, bytes]]:
    """For each item that is still there its key and an `add` command with its value.

    Items whose key cannot stand in such a command are left out.

    Raises:
        NodeRefuses: the server answers something else than values.
    """
    for at in range(0, len(items), _BATCH_KEYS):
        asked = {item.key: item for item in items[at : at + _BATCH_KEYS] if is_plain(item.key)}
        if not asked:
            continue
        connection.send(b"get " + b" ".join(asked) + b"\r\n")
        while (line := connection.line()) != b"END":
            words = line.split(b" ")
            if words[0] != b"VALUE" or words[1] not in asked:
                raise NodeRefuses(f"{connection.address} answers get: {text_of(line)}")
            value = connection.exactly(int(words[3]))
            connection.end_of_value()
            expire_at_s = asked[words[1]].expire_at_s
            head = b"add %s %s %d %d\r\n" % (words[1], words[2], expire_at_s, len(value))
            yield words[1], head + value + b"\r\n"
