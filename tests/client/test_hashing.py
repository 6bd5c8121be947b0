"""Which node a key belongs to: alike everywhere, as in other clients, and few keys that move."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pymemcache.client.hash import HashClient

from memcachepy import _core
from memcachepy.client.hashing import HASHINGS, Hashing, Key, node_of, ring
from memcachepy.errors import ConfigError
from memcachepy.topology import Member

KEYS = [f"key:{number}" for number in range(10_000)]
FEW_KEYS = KEYS[:2_000]

# Made with pylibmc 1.6.3 on libmemcached 1.0.16, behaviors={"ketama_weighted": True}: the number of
# the node, in base 36, that Client.hash() tells for key:0, key:1 and so on. Of 25 nodes each has
# but 156 points; a node with the default port has a name without it.
PYLIBMC_NODES = {
    (2, 11211): "001101110100001011101000110100111111011111110100010111100100011010110111",
    (3, 11211): "001201220200002022201011121100212122111121211210120121200201012121220222",
    (3, 11300): "011212002212012120000222102020001201022101210021102202120002120012011201",
    (5, 11211): "004304422420043434202244141204313134111221421310130432300302422121330223",
    (10, 11300): "498316404216893132585452808329401501034844395749826672128482969012891631",
    (25, 11211): "200g6207chiah3gi3hcfchkfo0hcjmjbf007d4johai7blo6f19k8c016of8hk85e4gkeicn",
    (36, 11212): "9ohz1bo1dmz6de5g5mro8mmceftsk8h0qysjtnmlxj6xx9ugk5i0dob7o5olhui36d1s75tn",
}


def cluster(count: int, port: int = 11211) -> list[Member]:
    """Addresses and names, one port or two, sorted as in a list."""
    other = int(port != 11211)
    return sorted(
        Member(f"10.0.0.{i + 1}" if i % 3 else f"cache-{i}.example", port + i % 2 * other)
        for i in range(count)
    )


def hash_client_node(client: HashClient, key: Key) -> Member:
    return Member(*client._get_client(key).server)


@pytest.mark.parametrize("hashing", HASHINGS)
def test_order_of_the_members_means_nothing(hashing: Hashing, rng: random.Random) -> None:
    members = cluster(9, 11300)
    shuffled = rng.sample(members, len(members))
    chosen = ring(members, hashing)
    again = ring(shuffled, hashing)
    assert [chosen.node_of(key) for key in KEYS[:500]] == [again.node_of(key) for key in KEYS[:500]]
    assert chosen.node_of(KEYS[0]) == node_of(KEYS[0], shuffled, hashing)


@pytest.mark.parametrize("hashing", HASHINGS)
def test_a_node_that_joins_ten_takes_its_share_and_nothing_else_moves(hashing: Hashing) -> None:
    before = ring(cluster(10), hashing)
    new = Member("10.0.0.99", 11211)
    after = ring([*before.members, new], hashing)
    homes = [(before.node_of(key), after.node_of(key)) for key in FEW_KEYS]
    moved = [home for old, home in homes if old != home]
    assert set(moved) == {new}
    # One in eleven, 182 of them; ketama's shares differ by about a tenth from node to node.
    assert 120 <= len(moved) <= 250


@pytest.mark.parametrize("hashing", HASHINGS)
def test_only_the_keys_of_a_node_that_leaves_move(hashing: Hashing) -> None:
    before = ring(cluster(10), hashing)
    gone = before.members[3]
    after = ring([member for member in before.members if member != gone], hashing)
    for key in FEW_KEYS:
        if before.node_of(key) != gone:
            assert after.node_of(key) == before.node_of(key)


@pytest.mark.parametrize(("hashing", "tolerance"), [("rendezvous", 0.1), ("ketama", 0.35)])
@pytest.mark.parametrize("count", [3, 10, 60])
def test_nodes_have_equal_shares(hashing: Hashing, tolerance: float, count: int) -> None:
    chosen = ring(cluster(count), hashing)
    keys_per_node = 2_000
    shares = Counter(chosen.index_of(f"user:{i}") for i in range(keys_per_node * count))
    assert len(shares) == count
    for share in shares.values():
        assert abs(share - keys_per_node) <= keys_per_node * tolerance


@pytest.mark.parametrize("hashing", HASHINGS)
@settings(max_examples=50, deadline=None)
@given(key=st.one_of(st.text(), st.binary()), count=st.integers(1, 12))
def test_every_key_has_exactly_one_node(hashing: Hashing, key: Key, count: int) -> None:
    chosen = ring(cluster(count), hashing)
    assert 0 <= chosen.index_of(key) < count
    assert chosen.node_of(key) is chosen.members[chosen.index_of(key)]


@pytest.mark.parametrize("hashing", ["rendezvous", "ketama"])
def test_a_str_is_its_bytes(hashing: Hashing) -> None:
    chosen = ring(cluster(7), hashing)
    for key in ("a", "user:7", "größe", "鍵"):
        assert chosen.index_of(key) == chosen.index_of(key.encode())


def test_rendezvous_is_what_any_xxhash_computes() -> None:
    members = [*cluster(7), Member("::1", 11213)]
    chosen = ring(members)
    for key in FEW_KEYS:
        weights = {}
        for member in members:
            seed = xxhash.xxh64_intdigest(f"{member.host}:{member.port}".encode())
            weights[xxhash.xxh64_intdigest(key.encode(), seed)] = member
        assert chosen.node_of(key) == weights[max(weights)]


def test_highest_of_equal_hashes_is_the_first() -> None:
    seed = (7).to_bytes(8, "little")
    assert _core.xxh64_highest(b"key", seed * 3) == 0
    with pytest.raises(ValueError, match="seed"):
        _core.xxh64_highest(b"key", b"")
    with pytest.raises(TypeError):
        _core.xxh64_highest("key", seed)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_pymemcaches_keys_go_where_hash_client_sends_them(count: int) -> None:
    members = [*cluster(count, 11300), Member("::1", 11300)]
    client = HashClient([(member.host, member.port) for member in members])
    chosen = ring(members, "pymemcache")
    for key in KEYS if count == 3 else FEW_KEYS:
        assert chosen.node_of(key) == hash_client_node(client, key)


@settings(max_examples=200, deadline=None)
@given(key=st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=60))
def test_pymemcaches_way_with_any_characters(key: str) -> None:
    members = cluster(4)
    servers = [(member.host, member.port) for member in members]
    client = HashClient(servers, allow_unicode_keys=True)
    chosen = ring(members, "pymemcache")
    assert chosen.node_of(key) == hash_client_node(client, key)
    raw = key.encode()
    assert chosen.node_of(raw) == hash_client_node(client, raw)


@pytest.mark.parametrize(("count", "port"), PYLIBMC_NODES)
def test_ketamas_keys_go_where_pylibmc_sent_them(count: int, port: int) -> None:
    chosen = ring(cluster(count, port), "ketama")
    nodes = PYLIBMC_NODES[count, port]
    assert [chosen.index_of(f"key:{i}") for i in range(len(nodes))] == [int(n, 36) for n in nodes]


def test_ketamas_keys_go_where_pylibmc_sends_them(rng: random.Random) -> None:
    pylibmc = pytest.importorskip("pylibmc", reason="NOT COMPARED live: pylibmc is not installed")
    ports: Sequence[int] = (11211, 11212, 11300)
    for count in (1, 2, 10, 47, 60):
        members = sorted(
            Member(f"10.{count}.{i}.{rng.randrange(256)}", rng.choice(ports)) for i in range(count)
        )
        client = pylibmc.Client(
            [member.address for member in members], behaviors={"ketama_weighted": True}
        )
        chosen = ring(members, "ketama")
        for key in FEW_KEYS:
            assert chosen.index_of(key) == client.hash(key)


def test_no_members_and_no_such_hashing_are_refused() -> None:
    with pytest.raises(ConfigError, match="members"):
        ring([])
    with pytest.raises(ConfigError, match="rendezvous, pymemcache, ketama"):
        ring(cluster(2), "modulo")  # type: ignore[arg-type]
