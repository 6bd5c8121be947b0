"""The processes of a node: what the supervisor owns, and what it forks."""
