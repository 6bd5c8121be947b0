"""A session with elasticache_pyclient, in a process of its own: it patches python-memcached.

Given the configuration endpoint; says in JSON what it found. Status 77: the client cannot run here.
"""

import json
import sys
import time


def main() -> int:
    try:
        from elasticache_pyclient import MemcacheClient
    except ImportError as error:  # It needs telnetlib and distutils, which newer Pythons lack.
        print(error)
        return 77
    client = MemcacheClient(sys.argv[1], ad_timeout=20, ad_interval=0.1)
    found = {"servers": sorted(client.cluster.servers), "version": client.cluster.version}
    for number in range(40):
        client.set(f"py{number}", f"value {number}")
    found["values"] = [client.get(f"py{number}") for number in range(40)]
    print(json.dumps(found), flush=True)
    sys.stdin.readline()  # The list has changed.
    deadline = time.monotonic() + 30
    while client.cluster.version == found["version"] and time.monotonic() < deadline:
        time.sleep(0.01)
    after = {"servers": sorted(client.cluster.servers), "version": client.cluster.version}
    client.set("after", "scaling")
    after["values"] = [client.get("after")]
    print(json.dumps(after), flush=True)
    client.stop_timer()
    return 0


sys.exit(main())
