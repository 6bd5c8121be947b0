"""What an attached process changes is told to who watches the node."""

from nodes import Node

from memcachepy import Cache


def test_sets_and_deletes_of_an_attached_process_are_told(node: Node, cache: Cache) -> None:
    with node.client() as watcher:
        watcher.ask(b"watch mutations deletions\r\n", b"OK\r\n")
        cache.set("attached", b"hello", expire=100)
        cache.delete("attached")
        stored, deleted = watcher.line(), watcher.line()
    assert b" type=item_store key=attached status=stored cmd=set ttl=" in stored
    assert stored.endswith(b" cfd=0 size=5")
    assert b" type=deleted key=attached cmd=delete clsid=" in deleted
