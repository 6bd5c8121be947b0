"""Bringing a cluster up: what is to be, the lock, the log, and the supervisor's process."""

import logging
import os
import traceback
from collections.abc import Callable, Mapping

from memcachepy import log
from memcachepy.cluster.applying import with_group
from memcachepy.cluster.changes import Changes, with_free_ports
from memcachepy.cluster.control import Tell
from memcachepy.cluster.groups import Groups
from memcachepy.cluster.spec import ClusterSpec, Declaration
from memcachepy.cluster.state import StateFolder, open_log
from memcachepy.cluster.supervisor import ClusterSupervisor
from memcachepy.config import MEGABYTE
from memcachepy.errors import ClusterError, MemcachepyError
from memcachepy.log import fact
from memcachepy.node.background import in_background
from memcachepy.node.notify import Notifier

logger = logging.getLogger("memcachepy.cluster")


def launch(
    folder: StateFolder,
    declaration: Declaration,
    environ: Mapping[str, str],
    tell: Tell,
    on_ready: Callable[[dict[str, object]], None],
    is_detached: bool = False,
    is_terse: bool = False,
) -> int:
    """Run a cluster; returns when it has ended, or when it serves if it is detached.

    Args:
        folder: of the cluster.
        declaration: what is asked for.
        environ: of the nodes.
        tell: how far it is; detached, called in another process.
        on_ready: when every node serves, with what `status` tells; in that process, too.
        is_detached: run in the background, in a session of its own.
        is_terse: log only what is wrong until every node serves.

    Returns:
        The exit status.

    Raises:
        ConfigError: what is asked for cannot be.
        ClusterError: the cluster runs already, or a node of it could not start.
    """
    with folder.held():
        spec = plan(folder, declaration)

        def run(say_serving: Callable[[], None] = lambda: None) -> int:
            if is_detached:
                log_fd = open_log(folder.log_path)
                os.dup2(log_fd, 2)
                os.close(log_fd)
            log.start(0, is_quiet=is_terse)
            _warn_of_memory(spec)
            notifier = Notifier.taken_from(dict(environ) if is_detached else os.environ)

            def say_ready(status: dict[str, object]) -> None:
                log.start(0)
                on_ready(status)
                notifier.ready(f"{len(spec.nodes)} nodes serve")
                say_serving()

            supervisor = ClusterSupervisor(
                folder, spec, environ, tell, say_ready, ends_on_hangup=not is_detached
            )
            try:
                supervisor.run(Changes(supervisor).operations)
            except Exception as error:
                if is_detached:  # Once it serves nobody else hears of it.
                    logger.critical(fact("supervisor ends", name=spec.name, reason=repr(error)))
                    if not isinstance(error, MemcachepyError):
                        traceback.print_exc()
                raise
            if not supervisor.is_ready:
                raise ClusterError(f"cluster {spec.name} was ended before it served")
            return 0

        if is_detached:
            return in_background(run, keep_output=False, folder="/")
        return run()


def _warn_of_memory(spec: ClusterSpec) -> None:
    """Each node looks only at what it takes itself."""
    together_mb = sum(spec.config_of(node).memory_limit for node in spec.staying)
    host_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MEGABYTE
    if together_mb > host_mb:
        facts = {"memory_limit_mb": together_mb, "host_mb": host_mb}
        remedy = "a lower -m, or fewer nodes"
        logger.warning(fact("nodes may take more memory than there is", **facts, remedy=remedy))


def plan(folder: StateFolder, declaration: Declaration) -> ClusterSpec:
    """What the cluster is to be.

    The command that made a cluster goes on with it, as changes have made it since, and so does one
    that says nothing; another command makes another cluster.

    Raises:
        ConfigError: what is asked for cannot be.
        ClusterError: nodes of another one still run, or there is no such parameter group.
    """
    old = folder.read_spec()
    if old is not None and (declaration.says_nothing or declaration.declared == old.declared):
        return old.checked()
    if running := folder.running_nodes():
        raise ClusterError(
            f"cluster {folder.name} runs already, without its supervisor, and not as asked for: "
            f"nodes {', '.join(sorted(running))}. `memcachepy cluster up --name {folder.name}` "
            f"goes on with them, `memcachepy cluster down --name {folder.name}` ends them"
        )
    spec = declaration.spec()
    if group := declaration.cluster.get("parameter_group"):
        spec = with_group(spec, Groups(folder.path.parent).read(group))
    return with_free_ports(spec).checked()
