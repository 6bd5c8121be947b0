"""bench/growth.py itself: that it builds, loads what it is told and sees every span."""

import re
import subprocess
import sys
from pathlib import Path

GROWTH = Path(__file__).parents[2] / "bench" / "growth.py"


def test_growth_bench_measures_every_set_and_every_step() -> None:
    command = [sys.executable, str(GROWTH), "--items", "30000", "--memory", "64", "--rounds", "1"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert len(re.findall(r"items=30000 refused=0 evictions=0", said)) == 2
    for how in ("alone", "maintained"):
        assert re.search(rf"\| {how} \| one whole set \| 30000 \| [0-9.]+ \|", said)
        assert re.search(rf"\| {how} \| a step of a hash table's growth \| [1-9][0-9]* \|", said)
        assert re.search(rf"\| {how} \| memory taken from the host \| [1-9][0-9]* \|", said)
