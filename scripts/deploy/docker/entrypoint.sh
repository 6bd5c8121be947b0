#!/bin/sh
# What a container runs:
#
#   docker run memcachepy                          a node
#   docker run memcachepy -m 256 -t 4              a node with flags, memcachepy's
#   docker run memcachepy memcached -m 256 -t 4    a node with memcached's flags and defaults
#   docker run memcachepy health cache:11211       any command of memcachepy
#   docker run -it memcachepy sh                   any other program
#
# It becomes that program, so signals reach the node itself, which as process 1 reaps orphans.
set -eu

case ${1-} in
    '' | -*) set -- memcachepy serve "$@" ;;
    bench | cluster | dump | explain | health | install-link | restore | serve | simulate | tool)
        set -- memcachepy "$@"
        ;;
esac
exec "$@"
