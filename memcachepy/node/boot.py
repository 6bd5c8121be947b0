"""What happens once, in order: standard files, log, limits, sockets, segment, user, processes."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing

from memcachepy import _core, log
from memcachepy.config import KILOBYTE, MEGABYTE, NodeConfig
from memcachepy.errors import BootError, CoreRefusal
from memcachepy.log import fact
from memcachepy.membership import open_membership
from memcachepy.node.background import in_background, with_absolute_paths
from memcachepy.node.control import Control
from memcachepy.node.control_listener import open_control_listener
from memcachepy.node.discovery import Discovery, Plan, publish, tell_start
from memcachepy.node.discovery_plan import last_version, make_plan, own_list_member
from memcachepy.node.files import pid_file, write_port_file
from memcachepy.node.limits import (
    become_user,
    open_standard_files,
    raise_core_limit,
    raise_descriptor_limit,
    raise_locked_memory_limit,
)
from memcachepy.node.listeners import Listener, open_listeners
from memcachepy.node.notify import Notifier
from memcachepy.node.supervisor import Supervisor
from memcachepy.topology import Topology

logger = logging.getLogger("memcachepy.node")


def run_node(config: NodeConfig, warnings: Sequence[str] = (), is_quiet: bool = False) -> int:
    """Run a node in this process until it is told to stop; returns the exit status.

    With `daemon` it runs in another process, and this one returns as soon as that one serves.

    Args:
        config: the node's settings.
        warnings: sentences to log first.
        is_quiet: log only what is wrong, unless `config.verbose` says otherwise.

    Raises:
        CoreRefusal: it does not take a setting.
        BootError: the system does not give what the node needs.
    """
    open_standard_files()
    if not config.daemon:
        return _run(config, warnings, is_quiet)
    settled = with_absolute_paths(config)
    folder = "." if config.enable_coredumps else "/"

    def run(say_serving: Callable[[], None]) -> int:
        return _run(settled, warnings, is_quiet, say_serving)

    return in_background(run, keep_output=config.verbose > 0, folder=folder)


def _run(
    config: NodeConfig,
    warnings: Sequence[str],
    is_quiet: bool,
    say_serving: Callable[[], None] = lambda: None,
) -> int:
    log.start(config.verbose, is_quiet=is_quiet)
    for warning in warnings:
        logger.warning(warning)
    notifier = Notifier.taken_from(os.environ)
    if os.geteuid() == 0 and config.user is None:
        logger.warning("running as root: give -u a user to become once the ports are open")
    with open_listeners(config) as listeners, ExitStack() as opening:
        bound_at_ns = time.monotonic_ns()
        control_listener = open_control_listener(config, listeners, os.environ)
        if control_listener:
            opening.callback(control_listener.listener.close)
        write_port_file(listeners, os.environ, config.user)
        _raise_limits(config, len(listeners))
        plan = make_plan(config, listeners, os.environ)
        own_list = None if plan else _own_list(config, listeners)
        become_user(config.user)
        if config.enable_coredumps:
            _core.allow_core()
        segment = opening.enter_context(closing(_open_segment(config, listeners)))
        _tell_first_list(segment, plan, own_list)
        control = None
        if control_listener:
            listener, gid = control_listener
            control = Control(segment, listener, gid, time.monotonic)

        names = ",".join(listener.name for listener in listeners)

        def say_ready() -> None:
            opening.enter_context(pid_file(config.pidfile))
            logger.info(
                fact(
                    "serving",
                    listen=names,
                    memory_mb=config.memory_limit,
                    workers=config.threads,
                    pid=os.getpid(),
                )
            )
            say_serving()

        def say_settled() -> None:
            notifier.ready(f"serving {names} with {config.memory_limit} MB")

        def say_draining() -> None:
            notifier.status("draining: serving open connections until they close")
            if is_quiet:
                log.tell("Gracefully stopping")  # In memcached's words, as it is as quiet.

        with Supervisor(
            segment,
            listeners,
            config.threads,
            say_ready,
            control=control,
            kill_stuck_attached=config.kill_stuck_attached,
            prepare_child=_memory_locker(config),
            on_drain=say_draining,
            on_stop=lambda why: notifier.stopping(f"stopping: {why}"),
            on_tick=notifier.alive,
            discovery=_discovery_maker(segment, plan),
            on_settled=say_settled,
        ) as supervisor:
            if plan:
                _outlive_copies(bound_at_ns)
            supervisor.run()
    return 0


def _outlive_copies(bound_at_ns: int) -> None:
    """Wait until no other node shows copies of what an earlier node with these ports had.

    This one does not know which of them its clients change. Mostly the time has passed by now.
    """
    passed_ns = time.monotonic_ns() - bound_at_ns
    time.sleep(max(0, _core.COPIES_OUTLIVED_NS - passed_ns) / 1e9)


def _own_list(config: NodeConfig, listeners: Sequence[Listener]) -> Topology | None:
    """Of a node outside any cluster: itself, if it can be reached over a network."""
    member = own_list_member(config, listeners)
    if member is None:
        return None
    return Topology(last_version(config, member, os.environ)).changed([member], time.time())


def _tell_first_list(segment: _core.Segment, plan: Plan | None, own_list: Topology | None) -> None:
    """What clients are told from the first request on: the last known list, or the node itself.

    A node that joins a cluster for the first time has none: itself alone would be a wrong list,
    with a version that hides the right one.
    """
    if plan is not None:
        tell_start(plan, segment, time.time())
    elif own_list is not None:
        publish(segment, own_list)


def _discovery_maker(segment: _core.Segment, plan: Plan | None) -> Callable[[], Discovery] | None:
    """Called in the discovery process, so that no other one has a provider's library."""
    if plan is None:
        return None
    return lambda: Discovery(plan, segment, open_membership(plan.place, "join"))


def _raise_limits(config: NodeConfig, listener_count: int) -> None:
    raise_descriptor_limit(config, listener_count)
    if config.enable_coredumps:
        raise_core_limit()
    if config.lock_memory:
        raise_locked_memory_limit()


def _memory_locker(config: NodeConfig) -> Callable[[], None]:
    """Lock what this process has, and say how each child locks its own.

    It is a wish, as with memcached: where it cannot be had the node serves, and says so.
    """
    if config.lock_memory:
        try:
            _core.lock_memory()
        except OSError as error:
            logger.warning(
                fact(
                    "memory cannot be locked",
                    reason=error.strerror,
                    remedy="ulimit -l unlimited, LimitMEMLOCK=infinity of systemd",
                )
            )
        else:
            return _core.lock_memory
    return lambda: None


def _open_segment(config: NodeConfig, listeners: Sequence[Listener]) -> _core.Segment:
    try:
        settings = segment_settings(config, listeners)
        return _core.Segment({**settings, "clock_is_fixed": True})
    except ValueError as error:
        raise CoreRefusal(str(error)) from None
    except _core.CoreError as error:
        raise BootError(str(error)) from None


def segment_settings(config: NodeConfig, listeners: Sequence[Listener]) -> dict[str, object]:
    """The config in the core's words, with the ports that were really opened."""
    ports = [listener.port for listener in listeners if listener.port]
    return {
        "memory_limit_bytes": config.memory_limit * MEGABYTE,
        "item_size_max_bytes": config.max_item_size,
        "item_size_min_bytes": config.slab_min_size,
        "growth_factor": config.slab_growth_factor,
        "conn_limit": config.conn_limit,
        "worker_count": config.threads,
        "requests_per_event": config.max_reqs_per_event,
        "backlog": config.listen_backlog,
        "verbosity": min(config.verbose, 2),
        "eviction_policy": "noeviction" if config.disable_evictions else config.eviction_policy,
        "cas_enabled": not config.disable_cas,
        "flush_enabled": not config.disable_flush_all,
        "shutdown_enabled": config.enable_shutdown,
        "large_pages": config.enable_largepages,
        "maxconns_fast": config.maxconns_fast,
        "dump_enabled": not config.disable_dumping,
        "watch_enabled": not config.disable_watch,
        "track_sizes": config.track_sizes,
        "slab_reassign": config.slab_reassign,
        "drop_privileges": config.drop_privileges,
        "lru_maintainer": config.lru_maintainer,
        "prefix_delimiter": config.stat_key_prefix or ":",
        "detail_enabled": config.stat_key_prefix is not None,
        "lru_crawler": config.lru_crawler,
        "lru_segmented": config.lru_maintainer,
        "temp_lru": config.temporary_ttl is not None,
        "slab_automove": config.slab_automove if config.slab_reassign else 0,
        "slab_automove_window": config.slab_automove_window,
        "slab_automove_ratio": config.slab_automove_ratio,
        "slab_automove_freeratio": config.slab_automove_freeratio,
        "lru_crawler_sleep_us": config.lru_crawler_sleep,
        "lru_crawler_tocrawl": config.lru_crawler_tocrawl,
        "hot_lru_pct": config.hot_lru_pct,
        "warm_lru_pct": config.warm_lru_pct,
        "temporary_ttl_s": 61 if config.temporary_ttl is None else config.temporary_ttl,
        "hot_max_factor": config.hot_max_factor,
        "warm_max_factor": config.warm_max_factor,
        "binding_protocol": config.binding_protocol,
        "idle_timeout_s": config.idle_timeout,
        "worker_logbuf_bytes": config.worker_logbuf_size * KILOBYTE,
        "watcher_logbuf_bytes": config.watcher_logbuf_size * KILOBYTE,
        "hashpower_init": config.hashpower or 0,
        "tail_repair_time_s": config.tail_repair_time or 0,
        "slab_chunk_max_bytes": config.slab_chunk_max * KILOBYTE,
        "napi_id_count": config.napi_ids or 0,
        "read_buf_limit_bytes": config.read_buf_mem_limit * MEGABYTE,
        "slab_sizes": config.slab_sizes or "",
        "hash_algorithm": config.hash_algorithm,
        "tcp_port": ports[0] if ports else 0,
        "unix_socket": config.unix_socket or "",
        "unix_mask": config.unix_mask,
        "listen": ",".join(listener.name for listener in listeners if listener.port)[:511],
        "supervisor_pid": os.getpid(),
    }
