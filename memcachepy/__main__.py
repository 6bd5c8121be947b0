"""`python -m memcachepy`."""

from memcachepy.cli import main

main()
