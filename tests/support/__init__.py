"""What several test suites share: processes, sockets, waiting, transcripts."""
