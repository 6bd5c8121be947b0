"""A session with django-elasticache, in a process of its own: it wants older names of Django's.

Given the configuration endpoint; says in JSON what it found. Status 77: the client cannot run here.
"""

import json
import sys


def main() -> int:
    try:
        from django.conf import settings
        from django.utils import encoding

        if not hasattr(encoding, "smart_text"):  # Until Django 4.
            encoding.smart_text = encoding.smart_str
        settings.configure()
        from django_elasticache.cluster_utils import get_cluster_info
        from django_elasticache.memcached import ElastiCache
    except ImportError as error:  # It needs telnetlib and distutils, which newer Pythons lack.
        print(error)
        return 77
    found = get_cluster_info(*sys.argv[1].split(":"))
    cache = ElastiCache(sys.argv[1], {})
    found["servers"] = sorted(cache.get_cluster_nodes())
    for number in range(40):
        cache.set(f"dj{number}", f"value {number}", 60)
    found["values"] = [cache.get(f"dj{number}") for number in range(40)]
    found["many"] = len(cache.get_many([f"dj{number}" for number in range(40)]))
    print(json.dumps(found), flush=True)
    return 0


sys.exit(main())
