"""The systemd units as text."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "scripts" / "deploy" / "systemd"
NODE = FOLDER / "memcachepy@.service"
CLUSTER = FOLDER / "memcachepy-cluster@.service"
UNITS = {NODE.name: "11211", CLUSTER.name: "shop"}
"""With an instance of each."""
PROGRAM = "/opt/memcachepy/bin/memcachepy"


def values(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
