"""Where there is no store yet: the command that makes one, for whoever is to own it."""

import pytest

from syncd.store.owner import Owner, how_to_make

_SYNCD = Owner(990, 990, "syncd")
_OLLAMA = Owner(989, 989, "ollama")
_ROOT = Owner(0, 0, "root")
_PULL = "and so does the first 'syncd pull NAME'"


@pytest.mark.parametrize("folder", [None, _ROOT])
def test_root_is_told_to_make_it_for_the_installed_service(folder: Owner | None) -> None:
    hint = how_to_make(folder, _SYNCD, euid=0, may_write=True)

    assert "'syncd init --owner syncd' makes one" in hint
    assert "pull" not in hint  # which would make a store of root's own


@pytest.mark.parametrize("service", [None, _SYNCD])
def test_root_is_told_to_make_it_for_whose_folder_it_is(service: Owner | None) -> None:
    hint = how_to_make(_OLLAMA, service, euid=0, may_write=True)

    assert hint == f"'syncd init --owner ollama' makes one, {_PULL}"


@pytest.mark.parametrize(("euid", "service"), [(0, None), (1000, None), (1000, _SYNCD)])
def test_who_makes_a_store_of_ones_own_needs_no_owner(euid: int, service: Owner | None) -> None:
    assert how_to_make(None, service, euid=euid, may_write=True) == f"'syncd init' makes one, {_PULL}"


@pytest.mark.parametrize(("service", "user"), [(None, "USER"), (_SYNCD, "syncd")])
def test_who_may_write_nothing_there_is_told_to_ask_root(service: Owner | None, user: str) -> None:
    assert how_to_make(None, service, euid=1000, may_write=False) == f"'sudo syncd init --owner {user}' makes one"
