"""A source test: every command of the classic protocol has a transcript."""

import re
from pathlib import Path

import pytest
from support.transcript import read_all

COMMANDS = (
    b"get gets gat gats set add replace append prepend cas delete incr decr touch flush_all "
    b"version verbosity cache_memlimit quit shutdown stats"
).split()

TABLE = Path(__file__).parent.parent.parent / "memcachepy" / "core" / "proto" / "command.h"

WITH_NOREPLY = (
    b"set add replace append prepend cas delete incr decr touch flush_all verbosity "
    b"cache_memlimit"
).split()


def _sent_lines() -> list[list[bytes]]:
    return [
        line.split() for case in read_all() for sent in case.sent() for line in sent.split(b"\r\n")
    ]


def test_every_command_has_a_transcript() -> None:
    sent = {words[0] for words in _sent_lines() if words}
    assert [command for command in COMMANDS if command not in sent] == []


def test_every_command_of_the_table_has_a_transcript() -> None:
    if not TABLE.exists():
        pytest.skip(f"NOT COMPARED with the core: no {TABLE}")
    table = re.findall(r'^ +X\("([a-z_]+)"', TABLE.read_text(), re.MULTILINE)
    assert len(table) >= len(COMMANDS)
    sent = {words[0] for words in _sent_lines() if words}
    assert [command for command in table if command.encode() not in sent] == []


def test_every_command_that_takes_noreply_has_a_transcript_with_it() -> None:
    silent = {words[0] for words in _sent_lines() if words and words[-1] == b"noreply"}
    assert [command for command in WITH_NOREPLY if command not in silent] == []
