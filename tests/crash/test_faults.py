"""SIGKILL, EIO and ENOSPC at every system call by which a pull changes its store, one by one, until all are covered.

A pull runs in one thread under strace, with a fault injected into its first call of a kind; then into its second; and
so on until a pull ends without the fault having been met. So what is covered is found out and not assumed.
"""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.crash import strace
from tests.crash.scene import Scene
from tests.crash.strace import TracedEnding

pytestmark = [pytest.mark.crash, pytest.mark.timeout(300)]

_KINDS = (
    "openat",
    "mkdirat",
    "write",
    "pwritev",
    "pwritev2",
    "fallocate",
    "ftruncate",
    "fchmod",
    "utimensat",
    "fsync",
    "fdatasync",
    "linkat",
    "renameat",
    "renameat2",
    "unlinkat",
)
_NEVER_FOR_WANT_OF_SPACE = {"ftruncate", "fchmod", "utimensat", "unlinkat"}
_INTERRUPTIBLE = {"openat", "write", "pwritev", "pwritev2", "fallocate", "ftruncate"}
_SYNCS = {"fsync", "fdatasync"}
_HEADER_AND_CLAIM = 2  # writes to the journal of a blob of one chunk


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the Nth call: an error once, an error from then on, or the end of the process.

    ``kinds``: the calls that it can happen to.
    """

    name: str
    inject: str
    kinds: frozenset[str]

    def at(self, kind: str, number: int) -> str:
        return f"inject={kind}:{self.inject.format(number)}"


_ALL = frozenset(_KINDS)
_KILL = Fault("SIGKILL", "signal=KILL:when={}", _ALL)
_INTERRUPTED = Fault("EINTR once", "error=EINTR:when={}", frozenset(_INTERRUPTIBLE))
_FAULTS = (
    _KILL,
    Fault("EIO once", "error=EIO:when={}", _ALL),
    Fault("EIO for good", "error=EIO:when={}+", _ALL),
    Fault("ENOSPC once", "error=ENOSPC:when={}", _ALL - _NEVER_FOR_WANT_OF_SPACE),
    Fault("ENOSPC for good", "error=ENOSPC:when={}+", _ALL - _NEVER_FOR_WANT_OF_SPACE),
    Fault("EMFILE once", "error=EMFILE:when={}", frozenset({"openat"})),
    _INTERRUPTED,
)
_CASES = [
    pytest.param(kind, fault, id=f"{kind}, {fault.name}") for kind in _KINDS for fault in _FAULTS if kind in fault.kinds
]


@pytest.fixture(scope="session", autouse=True)
def _strace() -> None:
    strace.needs_strace()


@pytest.fixture(scope="session")
def update(scene: Scene) -> TracedEnding:
    """The trace of an update that nothing disturbs."""
    return _undisturbed(scene, scene.store())


@pytest.fixture(scope="session")
def first_pull(scene: Scene) -> TracedEnding:
    """The trace of a pull into a store that is not there yet."""
    return _undisturbed(scene, scene.path())


def _undisturbed(scene: Scene, store: Path) -> TracedEnding:
    ending = scene.puller.traced(store, scene.new.name, scene.path("trace"), "-e", f"trace={strace.CHANGING}")
    assert ending.done, ending.result
    changing = [call for call in ending.calls if call.name != "openat" or call.creates]
    strays = [call for call in changing if not call.below(store) and call.paths != (str(store.parent),)]
    assert not strays, "a pull changes nothing but its store, and makes its name in the folder above it durable"
    return ending


def test_every_kind_of_call_that_changes_a_store_gets_its_faults(
    update: TracedEnding, first_pull: TracedEnding
) -> None:
    assert {call.name for call in (*update.calls, *first_pull.calls)} <= set(_KINDS)


@pytest.mark.parametrize(("kind", "fault"), _CASES)
def test_a_fault_at_any_call_of_an_update_leaves_the_store_whole_and_the_next_run_converges(
    scene: Scene, update: TracedEnding, kind: str, fault: Fault
) -> None:
    def judge(store: Path, ending: TracedEnding) -> None:
        assert ending.done or fault is not _INTERRUPTED
        _assert_ended_well(scene, store, ending)
        scene.assert_nothing_lost(store)
        leftovers = 1 if ending.killed or kind == "unlinkat" else 0
        scene.assert_converges(store, leftovers=leftovers, verified=_verified(ending) if ending.killed else ())
        if ending.killed:
            scene.assert_collectable(store)

    _at_each_call(scene, kind, fault, _Story(update, scene.store, judge))


@pytest.mark.parametrize("kind", _KINDS)
def test_a_kill_at_any_call_of_a_first_pull_leaves_a_store_that_the_next_run_completes(
    scene: Scene, first_pull: TracedEnding, kind: str
) -> None:
    def judge(store: Path, ending: TracedEnding) -> None:
        scene.assert_nothing_lost(store, past=False)
        scene.assert_converges(store, past=False, leftovers=1, verified=_verified(ending))
        scene.assert_collectable(store)

    _at_each_call(scene, kind, _KILL, _Story(first_pull, scene.path, judge))


@dataclass(frozen=True, slots=True)
class _Story:
    """A pull as it goes undisturbed, where it begins, and what has to be true after it met a fault."""

    clean: TracedEnding
    new_store: Callable[[], Path]
    judge: Callable[[Path, TracedEnding], None]


def _at_each_call(scene: Scene, kind: str, fault: Fault, story: _Story) -> None:
    calls = [call for call in story.clean.calls if call.name == kind]
    # Opening what is there changes nothing.
    wanted = [number for number, call in enumerate(calls, 1) if kind != "openat" or call.creates]
    covered, failures = 0, []
    # Beyond those: a pull that met a fault may go on by calls that others don't make.
    for number in itertools.chain(wanted, itertools.count(len(calls) + 1)):
        store = story.new_store()
        options = ("-e", f"trace={kind},write,fsync,fdatasync,unlinkat", "-e", fault.at(kind, number))
        ending = scene.puller.traced(store, scene.new.name, store.with_name("trace"), *options)
        if not ending.hit:
            break
        covered += 1
        try:
            story.judge(store, ending)
        except AssertionError as error:
            met = calls[number - 1].args if number <= len(calls) else ""
            failures.append(f"{fault.name} at {kind} number {number} ({met}), {dict(ending.result)}: {error}")
        shutil.rmtree(store, ignore_errors=True)
    print(f"{covered} points: {fault.name} at {kind}")
    assert not failures, "\n\n".join(failures)
    # How many pieces a blob's bytes come in, the network decides anew in every run: one at least for each blob.
    assert covered >= (len({call.paths for call in calls}) if kind == "pwritev2" else len(wanted))


def _assert_ended_well(scene: Scene, store: Path, ending: TracedEnding) -> None:
    assert "unexpected" not in ending.result, ending.result["unexpected"]
    if ending.killed:
        return
    _assert_no_failed_sync_was_tried_again(ending.calls)
    if ending.done:  # the fault did not matter: then it has to be all there
        scene.assert_current(store, leftovers=1 if ending.hit else 0)
        return
    assert ending.result["message"]


def _verified(ending: TracedEnding) -> set[str]:
    """The blobs (of one chunk each) whose chunk was noted in the journal, after its header, before the end came."""
    journals = [Path(call.paths[0]) for call in ending.calls if call.name == "write" and call.ok]
    noted = {path.stem for path in journals if path.suffix == ".journal" and journals.count(path) >= _HEADER_AND_CLAIM}
    return {file.replace("-", ":") for file in noted}


def _assert_no_failed_sync_was_tried_again(calls: tuple[strace.Call, ...]) -> None:
    failed: set[str] = set()
    for call in calls:
        if call.name in _SYNCS:
            path = call.paths[0]
            assert path not in failed, f"{path} was synced again after that had failed"
            if call.injected:
                failed.add(path)
        elif call.name == "unlinkat":
            failed -= set(call.paths)
