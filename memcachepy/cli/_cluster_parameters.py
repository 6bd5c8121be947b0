"""`memcachepy cluster parameters`: groups of parameters, and a cluster that gets one."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from memcachepy.cli._admin import json_option
from memcachepy.cli._cluster import (
    SETTINGS_OF_CONTEXT,
    ask,
    cluster_options,
    drain_option,
    echo_json,
    folder_of,
    keep_listed_option,
    table_text,
)
from memcachepy.cluster.applying import When, applies, waiting_changes, with_group
from memcachepy.cluster.groups import GROUP_DEFAULT, Group, Groups
from memcachepy.cluster.parameters import FAMILIES, FAMILY_DEFAULT, PARAMETERS, Parameter
from memcachepy.cluster.spec import ClusterSpec
from memcachepy.cluster.state import StateFolder, cluster_names
from memcachepy.config import NodeConfig
from memcachepy.errors import ClusterError, ConfigError

group_argument = click.argument("group", metavar="GROUP")


@click.group(context_settings=SETTINGS_OF_CONTEXT)
def parameters() -> None:
    """Show and change groups of parameters, and give one to a cluster.

    A group belongs to the state folder, not to one cluster. Its parameters have ElastiCache's
    names, or those of settings of `memcachepy serve`. A change of a group changes no cluster until
    it is applied. The default groups are empty and cannot be changed: what a group does not say is
    as the flags of `cluster up` said it, or memcachepy's own default.
    """


def _groups(root: Path | None) -> Groups:
    return Groups(folder_of(None, root).path.parent)


@parameters.command("list", context_settings=SETTINGS_OF_CONTEXT)
@cluster_options
@json_option
def list_groups(name: str | None, root: Path | None, as_json: bool) -> None:
    """Show all groups, and which clusters have them."""
    folder = folder_of(name, root)
    users = _users(folder)
    found = [_groups(root).read(group) for group in _groups(root).names()]
    if as_json:
        echo_json([{**group.as_dict(), "clusters": users.get(group.name, [])} for group in found])
        return
    rows = [
        (
            group.name,
            group.family,
            str(len(group.values)),
            ", ".join(users.get(group.name, [])) or "-",
            group.description,
        )
        for group in found
    ]
    click.echo(table_text(("GROUP", "FAMILY", "CHANGED", "CLUSTERS", "DESCRIPTION"), rows))


def _users(folder: StateFolder) -> dict[str, list[str]]:
    """Clusters by the group that was applied to them last."""
    users: dict[str, list[str]] = {}
    for name in cluster_names(folder.path.parent):
        spec = StateFolder(folder.path.parent, name).read_spec()
        if spec is not None and spec.parameter_group:
            users.setdefault(spec.parameter_group, []).append(name)
    return users


@parameters.command(context_settings=SETTINGS_OF_CONTEXT)
@click.argument("group", metavar="[GROUP]", default="")
@click.option("--changed", is_flag=True, help="Only what the group says.")
@cluster_options
@json_option
def show(group: str, changed: bool, name: str | None, root: Path | None, as_json: bool) -> None:
    """Show the parameters of a group, without GROUP of the one that the cluster has.

    Then also what its nodes do not have yet. APPLIES is what a change waits for: `now` is nothing,
    `restart` the next start of a node.
    """
    folder = folder_of(name, root)
    spec = folder.read_spec()
    groups = _groups(root)
    found = groups.read(group or (spec.parameter_group if spec else "") or GROUP_DEFAULT)
    waiting = waiting_changes(folder, spec) if spec is not None and not group else []
    is_applied = spec is None or bool(group) or _is_applied(spec, found)
    rows = [_row(row, found) for row in _rows_of(found, changed)]
    if as_json:
        told = [change.as_dict() for change in waiting]
        details = {"parameters": rows, "waiting": told, "is_applied": is_applied}
        echo_json({**found.as_dict(), **details})
        return
    about = f": {found.description}" if found.description else ""
    click.echo(f"group {found.name}, family {found.family}{about}")
    heading = ("PARAMETER", "VALUE", "DEFAULT", "ELASTICACHE", "APPLIES", "SETTING", "")
    keys = ("name", "value", "default", "elasticache", "applies", "setting")
    click.echo(
        table_text(heading, [(*(_cell(row[key]) for key in keys), row["note"]) for row in rows])
    )
    needing = [change for change in waiting if change.when is not When.NOTHING]
    if spec is not None and not is_applied:
        again = f"`memcachepy cluster parameters apply {found.name}`"
        click.echo(f"\nChanged since {spec.name} got it: {again}")
    if spec is not None and needing:
        click.echo(f"\nNot yet with all nodes of {spec.name}:")
        click.echo("\n".join(_sentences(change.as_dict() for change in needing)))


def _is_applied(spec: ClusterSpec, group: Group) -> bool:
    """Whether the cluster has the group as it is now."""
    try:
        return with_group(spec, group).parameters == spec.parameters
    except ConfigError:
        return False


def _rows_of(group: Group, changed: bool) -> list[Parameter]:
    """Of settings without effect only those that ElastiCache has, too."""
    return [
        row
        for row in PARAMETERS.values()
        if row.name in group.values
        or (not changed and group.family in row.families and (row.has_effect or row.is_elasticache))
    ]


def _row(row: Parameter, group: Group) -> dict[str, Any]:
    own_default = row.of_config(NodeConfig())
    return {
        "name": row.name,
        "value": group.values.get(row.name),
        "default": own_default if own_default is None else _told(own_default),
        "elasticache": row.elasticache,
        "applies": applies(row),
        "setting": row.setting if row.setting != row.name else "",
        "note": row.note,
        "is_modifiable": row.is_modifiable,
    }


def _told(value: object) -> object:
    return value if isinstance(value, bool | int | float | str) else str(value)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


@parameters.command(context_settings=SETTINGS_OF_CONTEXT)
@group_argument
@click.option(
    "--family",
    type=click.Choice(FAMILIES),
    default=FAMILY_DEFAULT,
    show_default=True,
    help="Whose parameters it may have.",
)
@click.option("--description", metavar="<text>", default="", help="What it is for.")
@click.option("--from", "source", metavar="<group>", help="Begin with what this one says.")
@cluster_options
@json_option
def create(
    group: str,
    family: str,
    description: str,
    source: str | None,
    name: str | None,  # noqa: ARG001  (groups are no cluster's)
    root: Path | None,
    as_json: bool,
) -> None:
    """Make a group, which says nothing yet."""
    groups = _groups(root)
    values = groups.read(source).values if source else {}
    _say_group(groups.create(group, family, description, values), as_json, "made")


@parameters.command("set", context_settings=SETTINGS_OF_CONTEXT)
@group_argument
@click.argument("words", metavar="NAME=VALUE...", nargs=-1, required=True)
@cluster_options
@json_option
def set_values(
    group: str,
    words: tuple[str, ...],
    name: str | None,  # noqa: ARG001
    root: Path | None,
    as_json: bool,
) -> None:
    """Change what a group says, all of it or nothing."""
    values = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{word} is not NAME=VALUE")
        values[key.strip()] = value.strip()
    _say_group(_groups(root).set(group, values), as_json, "changed")


@parameters.command(context_settings=SETTINGS_OF_CONTEXT)
@group_argument
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "is_all", is_flag=True, help="All that the group says.")
@cluster_options
@json_option
def reset(
    group: str,
    names: tuple[str, ...],
    is_all: bool,
    name: str | None,  # noqa: ARG001
    root: Path | None,
    as_json: bool,
) -> None:
    """Have a group say nothing about parameters again."""
    if bool(names) == is_all:
        raise click.UsageError("give names, or --all")
    _say_group(_groups(root).reset(group, None if is_all else names), as_json, "changed")


@parameters.command(context_settings=SETTINGS_OF_CONTEXT)
@group_argument
@cluster_options
def delete(group: str, name: str | None, root: Path | None) -> None:
    """Delete a group that no cluster has."""
    if users := _users(folder_of(name, root)).get(group):
        raise ClusterError(f"{group} is the group of {', '.join(users)}: apply another one first")
    _groups(root).delete(group)
    click.echo(f"group {group} deleted")


def _say_group(group: Group, as_json: bool, what: str) -> None:
    if as_json:
        echo_json(group.as_dict())
        return
    click.echo(f"group {group.name} {what}")
    for key, value in group.values.items():
        row = PARAMETERS[key]
        click.echo(f"  {key} = {_cell(value)}  (applies: {applies(row)})")


@parameters.command(context_settings=SETTINGS_OF_CONTEXT)
@group_argument
@cluster_options
@click.option(
    "--now",
    "is_restarting",
    is_flag=True,
    help="Restart nodes that need it, one after the other, without a question.",
)
@click.option("--dry-run", "is_dry", is_flag=True, help="Only say what would change.")
@drain_option
@keep_listed_option
@json_option
def apply(
    group: str,
    name: str | None,
    root: Path | None,
    is_restarting: bool,
    is_dry: bool,
    drain_s: float | None,
    keep_listed: bool,
    as_json: bool,
) -> None:
    """Give a cluster a group's values.

    Says what changes on running nodes and what needs their restart, and does it. A restarted node
    is empty. On a terminal it asks before it restarts nodes; elsewhere, without --now, what needs a
    restart waits for the next one, whoever asks for it.
    """
    folder = folder_of(name, root)
    found = ask(folder, "parameters", {"group": group, "is_dry": True}, as_json)
    needing = [change for change in found["changes"] if change["when"] == When.RESTART]
    if not as_json:
        click.echo("\n".join(_sentences(found["changes"])) or "nothing changes")
    if is_dry:
        if as_json:
            echo_json(found)
        return
    if needing and not is_restarting and not as_json and sys.stdin.isatty():
        count = len({node_id for change in needing for node_id in change["node_ids"]})
        question = f"Restart {count} nodes, one after the other? Each loses its items."
        is_restarting = click.confirm(question, default=False)
    arguments = {
        "group": group,
        "is_restarting": is_restarting,
        "drain_s": drain_s,
        "keep_listed": keep_listed,
    }
    done = ask(folder, "parameters", arguments, as_json)
    if as_json:
        echo_json(done)
        return
    for sentence in done["trouble"]:
        click.echo(sentence, err=True)
    if done["restarted"]:
        click.echo(f"restarted: {', '.join(done['restarted'])}")
    if done["waiting"]:
        click.echo(
            f"waiting for a restart: {', '.join(done['waiting'])} (`memcachepy cluster restart "
            f"--rolling --name {folder.name}`, or apply with --now)"
        )
    click.echo(f"cluster {folder.name} has group {group}")


def _sentences(changes: Iterable[Mapping[str, Any]]) -> list[str]:
    whens = {
        When.NOW: "now",
        When.RESTART: "with a restart",
        When.NOTHING: "without effect here",
    }
    return [
        f"{change['setting']}: {_cell(change['before'])} becomes {_cell(change['after'])}, "
        f"{whens[When(change['when'])]}, on {', '.join(change['node_ids'])}"
        for change in changes
    ]
