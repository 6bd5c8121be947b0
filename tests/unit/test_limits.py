"""Giving up root, where the tests need not be root."""

import os
import pwd

import pytest

from memcachepy.errors import ConfigError, UnknownUser
from memcachepy.node.limits import become_user


def test_unknown_user_has_its_own_exit_status() -> None:
    with pytest.raises(UnknownUser, match="user is 'no-such-user'") as caught:
        become_user("no-such-user")
    assert caught.value.exit_status == 67


def test_only_root_can_become_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="can only be changed by root"):
        become_user("root")


def test_becoming_oneself_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    become_user("nobody")
