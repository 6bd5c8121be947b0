"""Where a cluster's list of nodes is kept: a file, DNS, ZooKeeper."""

from typing import TYPE_CHECKING

from memcachepy.membership.url import DnsPlace, FilePlace, Place, ZookeeperPlace, parse_url

if TYPE_CHECKING:
    from memcachepy.membership.membership import Membership

__all__ = ["open_membership", "parse_url"]


def open_membership(url: str | Place, setting: str = "provider") -> "Membership":
    """The provider that a URL names, not connected yet; the caller closes it.

    Raises:
        ConfigError: the URL names none, or a package is not installed; `setting` is in the message.
    """
    place = parse_url(url, setting) if isinstance(url, str) else url
    match place:
        case FilePlace():
            from memcachepy.membership.file import FileMembership

            return FileMembership(place)
        case DnsPlace():
            from memcachepy.membership.dns import DnsMembership

            return DnsMembership(place)
        case ZookeeperPlace():
            from memcachepy.membership.zookeeper import ZookeeperMembership

            return ZookeeperMembership(place)
