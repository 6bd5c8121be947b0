"""A supervisor in the background, where nobody hears of its end."""

import subprocess
import sys
from pathlib import Path

from clusters import PATIENCE_S
from support.waiting import wait_until

from memcachepy.cluster.state import StateFolder

SCRIPT = """
import sys
from pathlib import Path

from memcachepy.cluster import launcher
from memcachepy.cluster.spec import declare
from memcachepy.cluster.state import StateFolder


class Supervisor:
    is_ready = True

    def __init__(self, folder, spec, environ, tell, on_ready, **_):
        self.on_ready = on_ready

    def run(self, _changes):
        self.on_ready({})
        raise ZeroDivisionError("of a test")


launcher.ClusterSupervisor = Supervisor
folder = StateFolder(Path(sys.argv[1]), "main")
declaration = declare({"port": "-1"}, {"nodes": 1}, {})
sys.exit(launcher.launch(folder, declaration, {}, print, lambda _: None, is_detached=True))
"""


def test_an_error_that_ends_a_supervisor_in_the_background_is_in_its_log(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], timeout=PATIENCE_S)
    assert done.returncode == 0, "it had served"
    log_path = StateFolder(tmp_path, "main").log_path
    wait_until(lambda: "ZeroDivisionError: of a test" in log_path.read_text(), "it", PATIENCE_S)
    text = log_path.read_text()
    assert "supervisor ends name=main" in text
    assert "Traceback (most recent call last):" in text
