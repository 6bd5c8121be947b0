"""URLs that say where a list is kept, and what is said about those that do not."""

from pathlib import Path

import pytest

from memcachepy.config import NodeConfig
from memcachepy.errors import ConfigError
from memcachepy.membership.url import DnsPlace, FilePlace, Place, ZookeeperPlace, parse_url


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("file:/run/a?b.json", FilePlace(Path("/run/a?b.json"))),
        ("file:///run/a.json", FilePlace(Path("/run/a.json"))),
        ("file:a.json", FilePlace(Path("a.json"))),
        ("dns+cache.default.svc:11211", DnsPlace("cache.default.svc", 11211)),
        ("dns+_a.b.:1?nameserver=127.0.0.1", DnsPlace("_a.b.", 1, ("127.0.0.1", 53))),
        ("dnssrv+_mc._tcp.x?nameserver=[::1]:5353", DnsPlace("_mc._tcp.x", 0, ("::1", 5353))),
        ("zk://a/c", ZookeeperPlace((("a", 2181),), "/c")),
        ("zk://a:1,[::1]:2/c/d/", ZookeeperPlace((("a", 1), ("::1", 2)), "/c/d")),
        ("zk://a/c?auth=/a%26b", ZookeeperPlace((("a", 2181),), "/c", auth_file=Path("/a&b"))),
        ("zk://a/c?grace=5&session=2.5", ZookeeperPlace((("a", 2181),), "/c", 5, 2.5)),
    ],
)
def test_url_names_a_place_that_reads_the_same_again(url: str, place: Place) -> None:
    assert parse_url(url) == place
    assert parse_url(str(place)) == place


@pytest.mark.parametrize(
    ("url", "about"),
    [
        ("/run/a.json", "must be file:PATH, dns"),
        ("etcd://a/b", "must be file:PATH, dns"),
        ("file:", "path of a file"),
        ("file://host/a", "path of a file"),
        ("dns+name", "port that every node listens on"),
        ("dns+name:0", "port that every node listens on"),
        ("dns+a b:1", "DNS name after dns\\+"),
        ("dnssrv+", "DNS name after dnssrv\\+"),
        ("dns+a:1?nameservers=x", "not 'nameservers'"),
        ("dns+a:1?nameserver=127.0.0.1:99999", "port from 1 to 65535"),
        ("dns+a:1?nameserver=a", "IP address"),
        ("zk://a", "path of the cluster"),
        ("zk://a/", "path of the cluster"),
        ("zk://a/zookeeper", "path of the cluster"),
        ("zk://a/b/../c", "without"),
        ("zk://a:b/c", "HOST:PORT"),
        ("zk:///c", "HOST:PORT"),
        ("zk://a/c?auth=secret", "absolute path"),
        ("zk://a/c?grace=soon", "grace=0 to 86400 seconds"),
    ],
)
def test_what_names_no_place_is_refused_with_what_is_wrong(url: str, about: str) -> None:
    with pytest.raises(ConfigError, match=about) as caught:
        NodeConfig(join=url)
    assert caught.value.name == "join"
