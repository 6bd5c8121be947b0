"""What an administrator asks of a running node, ours or a memcached, without click."""
