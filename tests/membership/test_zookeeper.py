"""The list in ZooKeeper: one sequence of versions for all, whatever happens to the server."""

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import wait_until
from zookeeper_server import Wire, ZookeeperServer, require_zookeeper

from memcachepy.errors import MembershipError
from memcachepy.membership import open_membership
from memcachepy.topology import Member, Topology

pytestmark = pytest.mark.once

WAIT_S = 60.0
_paths = (f"/test/cache-{number}" for number in itertools.count())


@pytest.fixture(autouse=True)
def _needed() -> None:
    require_zookeeper()


class Peer:
    """A node as far as its membership goes: it polls, and remembers the last list."""

    def __init__(self, url: str, node_id: str, last: Topology | None = None) -> None:
        self.membership = open_membership(url)
        self.last = last or Topology(0)
        self.versions: list[int] = []
        self.member = Member("127.0.0.1", 20000 + int(node_id), "127.0.0.1", node_id)
        self.membership.join(self.member)

    def poll(self) -> Topology | None:
        """None: no answer."""
        try:
            found = self.membership.poll(self.last)
        except MembershipError:
            return None
        assert found.version > self.last.version or found == self.last
        if found != self.last:
            self.versions.append(found.version)
        self.last = found
        return found

    def ids(self) -> list[str]:
        return sorted(member.node_id for member in self.last.members)

    def sees(self, *ids: str) -> bool:
        return self.poll() is not None and self.ids() == sorted(ids)


Join = Callable[..., Peer]


@pytest.fixture
def path() -> str:
    return next(_paths)


@pytest.fixture
def join(zookeeper: ZookeeperServer, path: str) -> Iterator[Join]:
    """Nodes of one cluster with a grace of 2 s, closed at the end."""
    peers: list[Peer] = []

    def join(
        node_id: str, last: Topology | None = None, address: str = "", grace: float = 2
    ) -> Peer:
        url = f"zk://{address or zookeeper.address}{path}?session=1&grace={grace:g}"
        peers.append(Peer(url, node_id, last))
        wait_until(lambda: peers[-1].poll(), "a list", WAIT_S)
        return peers[-1]

    yield join
    for peer in peers:
        peer.membership.close()


def wait_for(what: str, *conditions: Callable[[], bool]) -> None:
    """Every condition is asked each time: who is not polled sees nothing."""

    def are_met() -> bool:
        met = [condition() for condition in conditions]
        return all(met)

    wait_until(are_met, what, WAIT_S)


def test_all_see_one_list_with_one_version(join: Join) -> None:
    one, two, three = join("1"), join("2"), join("3")
    wait_for("all three", *(lambda p=p: p.sees("1", "2", "3") for p in (one, two, three)))
    assert one.last == two.last == three.last
    assert one.membership.has_joined
    assert abs(one.last.version - time.time()) < WAIT_S
    assert one.membership.topology() == one.last


def test_many_that_join_at_once_are_all_in_the_list(join: Join) -> None:
    threads = [threading.Thread(target=join, args=(str(number),)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = join("99")
    assert last.ids() == sorted([*map(str, range(12)), "99"])


def test_who_leaves_is_out_at_once(join: Join) -> None:
    one, two = join("1"), join("2", grace=3600)
    one.membership.leave()
    assert two.sees("2")
    assert one.sees("2")
    assert not one.membership.has_joined


def test_the_last_node_stays_in_the_list(join: Join) -> None:
    one = join("1")
    one.membership.leave()
    assert one.sees("1")


def test_who_dies_is_out_after_the_grace(join: Join) -> None:
    one, two = join("1"), join("2")
    assert one.sees("1", "2")
    died_at_s = time.monotonic()
    two.membership.close()
    wait_for("the dead node to be removed", lambda: one.sees("1"))
    assert time.monotonic() - died_at_s >= 2


def test_a_session_that_flaps_does_not_flap_the_list(join: Join) -> None:
    one, two = join("1"), join("2", grace=3600)
    one.poll()
    for _ in range(3):
        two.membership.close()
        one.poll()
        two = join("2", two.last, grace=3600)
        assert one.sees("1", "2")
    assert one.last == two.last
    assert len(one.versions) == 2


def test_few_are_removed_though_many_are_gone(join: Join) -> None:
    peers = [join(str(number), grace=1) for number in range(6)]
    for peer in peers[1:]:
        peer.membership.close()
    wait_for("one to be removed", lambda: bool(peers[0].poll()) and len(peers[0].ids()) == 5)
    until_s = time.monotonic() + 3
    wait_for("3 s", lambda: peers[0].poll() is not None and time.monotonic() > until_s)
    assert len(peers[0].ids()) == 5


def test_a_replaced_node_keeps_its_id_and_the_list_its_length(join: Join) -> None:
    one, two = join("1"), join("2")
    two.membership.close()
    moved = Member("127.0.0.1", 30002, "127.0.0.1", "2")
    again = join("3", two.last)
    again.membership.leave()
    again.membership.join(moved)
    wait_for("the address to change", lambda: bool(again.poll()) and moved in again.last.members)
    assert again.ids() == ["1", "2"]
    assert one.sees("1", "2")


def test_an_id_that_another_node_has_is_not_taken_over(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    one = join("1")
    other = join("2")
    other.membership.leave()
    other.membership.join(Member("127.0.0.1", 30001, "127.0.0.1", "1"))
    assert other.poll() == one.last or other.sees("1")
    assert other.sees("1")
    assert not other.membership.has_joined
    assert other.last.member("1") == one.member
    assert caplog.text.count("node id is taken") == 1
    one.membership.leave()
    wait_for("the id to be free", lambda: other.sees("1") and other.membership.has_joined)
    assert other.last.members == (Member("127.0.0.1", 30001, "127.0.0.1", "1"),)


def test_whose_id_is_another_nodes_leaves_that_one_in_the_list(join: Join) -> None:
    one, two, other = join("1"), join("2"), join("3")
    other.membership.leave()
    other.membership.join(Member("127.0.0.1", 30001, "127.0.0.1", "1"))
    assert other.sees("1", "2")
    assert not other.membership.has_joined
    other.membership.leave()
    assert two.sees("1", "2")
    assert two.last.member("1") == one.member


def test_killed_server_costs_nothing(join: Join, zookeeper: ZookeeperServer) -> None:
    one, two = join("1"), join("2")
    one.poll()
    before = one.last
    zookeeper.kill()
    wait_for("the loss to be seen", lambda: one.poll() is None, lambda: two.poll() is None)
    assert not one.membership.has_joined
    zookeeper.start()
    wait_for("both to be back", lambda: one.sees("1", "2"), lambda: two.sees("1", "2"))
    wait_for("membership", lambda: bool(one.poll()) and one.membership.has_joined)
    assert one.last == two.last == before


def test_server_that_lost_everything_gets_the_last_list(
    join: Join, zookeeper: ZookeeperServer
) -> None:
    one, two = join("1", grace=3600), join("2", grace=3600)
    one.poll()
    before = one.last
    zookeeper.kill()
    wait_for("the loss to be seen", lambda: one.poll() is None, lambda: two.poll() is None)
    zookeeper.lose_everything()
    zookeeper.start()
    wait_for("both to be back", lambda: one.sees("1", "2"), lambda: two.sees("1", "2"))
    assert one.last == two.last == before


def test_paused_server_is_not_waited_for(join: Join, zookeeper: ZookeeperServer) -> None:
    one, two = join("1"), join("2")
    one.poll()
    before = one.last
    zookeeper.pause()
    try:
        asked_at_s = time.monotonic()
        assert one.poll() is None
        assert time.monotonic() - asked_at_s < 20
    finally:
        zookeeper.resume()
    wait_for("both to be back", lambda: one.sees("1", "2"), lambda: two.sees("1", "2"))
    assert one.last == two.last == before


def test_who_is_cut_off_keeps_the_list_and_comes_back(join: Join, wire: Wire) -> None:
    one = join("1", grace=3600)
    two = join("2", address=wire.address)
    one.poll()
    before = two.last
    wire.cut()
    wait_for("the cut to be seen", lambda: two.poll() is None, lambda: one.sees("1", "2"))
    assert two.last == before
    wire.join()
    wait_for("the way back", lambda: two.sees("1", "2"), lambda: two.membership.has_joined)
    assert one.sees("1", "2")
    assert one.last == before


def test_who_was_cut_off_removes_nobody_for_what_it_did_not_see(join: Join, wire: Wire) -> None:
    """While it sees nothing, the other's session goes and comes; its own grace is over by then."""
    one = join("1", address=wire.address, grace=1)
    two = join("2", grace=3600)
    one.poll()
    wire.cut()
    until_s = time.monotonic() + 2
    wait_for("the cut", lambda: one.poll() is None and time.monotonic() > until_s)
    two.membership.close()
    wire.join()
    wait_for("the way back", lambda: one.poll() is not None)
    assert one.ids() == ["1", "2"]


def test_version_grows_when_the_list_comes_from_elsewhere(join: Join) -> None:
    elsewhere = Topology(2_000_000_000, (Member("127.0.0.1", 20001, "127.0.0.1", "1"),))
    one = join("1", elsewhere)
    assert one.last.version >= elsewhere.version
    two = join("2")
    assert one.sees("1", "2")
    assert one.last == two.last
    assert one.last.version > elsewhere.version


def test_what_is_no_list_is_an_error_that_says_so(
    join: Join, zookeeper: ZookeeperServer, path: str
) -> None:
    from kazoo.client import KazooClient

    one = join("1")
    client = KazooClient(zookeeper.address)
    client.start()
    try:
        client.set(f"{path}/topology", b"rubbish")
        with pytest.raises(MembershipError, match="topology is no list of nodes"):
            one.membership.poll(one.last)
    finally:
        client.stop()
        client.close()


def test_there_is_one_sequence_of_lists_whatever_happens(join: Join, rng: random.Random) -> None:
    """Nodes come, leave, die and flap in any order; nobody ever sees two lists of one version."""
    seen: dict[int, bytes] = {}
    peers: dict[str, Peer] = {}
    for _ in range(120):
        node_id = str(rng.randrange(1, 6))
        peer = peers.get(node_id)
        match rng.choice(["start", "poll", "poll", "leave", "die", "flap"]):
            case "start" if peer is None:
                peers[node_id] = join(node_id, grace=rng.choice([0, 0.05, 3600]))
            case "leave" if peer:
                peer.membership.leave()
                peer.poll()
                peers.pop(node_id).membership.close()
            case "die" if peer:
                peers.pop(node_id).membership.close()
            case "flap" if peer:
                peer.membership.close()
                peers[node_id] = join(node_id, peer.last)
            case _:
                for peer in peers.values():
                    peer.poll()
        for peer in peers.values():
            assert seen.setdefault(peer.last.version, peer.last.payload()) == peer.last.payload()
            assert peer.last.members
    last = join("9")
    here = sorted([*peers, "9"])
    wait_for("those that are there", lambda: bool(last.poll()) and set(here) <= set(last.ids()))
    wait_for("one list", *(lambda p=p: p.poll() == last.last for p in peers.values()))


def test_with_credentials_others_may_look_but_not_change(
    zookeeper: ZookeeperServer, path: str, tmp_path: Path
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).write_text(f"{name}:secret\n")
    url = f"zk://{zookeeper.address}{path}?session=1&grace=0"
    one = Peer(f"{url}&auth={tmp_path / 'one'}", "1")
    other = Peer(f"{url}&auth={tmp_path / 'other'}", "2")
    anybody = Peer(url, "3")
    with one.membership, other.membership, anybody.membership:
        wait_for("the owner", lambda: one.sees("1"))
        for peer in (other, anybody):
            assert peer.membership.topology() == one.last
            with pytest.raises(MembershipError, match="NoAuth"):
                peer.membership.poll(peer.last)
        assert one.sees("1")


@pytest.mark.parametrize("text", [None, "", "user", "user:", "a b:c", "\xff"])
def test_credentials_that_are_none_are_named(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "auth"
    if text is not None:
        file.write_text(text, encoding="latin-1")
    with pytest.raises(MembershipError, match=r"auth (cannot be read|must hold user:password)"):
        open_membership(f"zk://a/c?auth={file}")
