"""Clients that ask a cluster for its nodes and follow it as it changes."""
