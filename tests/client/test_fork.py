"""A client over a fork, as in a web server that loads the application before it forks."""

import subprocess
import sys
from pathlib import Path

from nodes import Start

PROGRAM = Path(__file__).parent / "forking.py"


def test_parent_and_children_share_no_connection_and_no_thread(start: Start) -> None:
    node = start("-t", "1")
    command = [sys.executable, "-W", "error::ResourceWarning", str(PROGRAM), node.addresses[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    warned = "DeprecationWarning: This process"
    unexpected = [line for line in done.stderr.splitlines() if warned not in line]
    assert [line for line in unexpected if "os.fork()" not in line] == []
