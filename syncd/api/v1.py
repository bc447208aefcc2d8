"""``/syncd/v1``: what the daemon and its command say to each other. Sizes are bytes, times RFC 3339 in UTC.

As everywhere in ``--json``: new fields and new events may come, what is here keeps its name and its meaning.
"""

import msgspec

from syncd.api.collected import CollectionInfo
from syncd.api.pinned import PinsInfo
from syncd.api.repairs import WaitingRepair
from syncd.api.scrubbed import ScrubInfo


class DaemonInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /syncd/v1/daemon``: who answers. ``store``: the real path of the store that it owns."""

    version: str
    pid: int
    uid: int
    store: str
    started: str


class SettingsInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force. ``fault``: why the newest files are not (null: they are).

    ``needs_restart``: keys whose new value a restart alone brings into force.
    """

    files: tuple[str, ...]
    loaded: str
    fault: str | None
    needs_restart: tuple[str, ...]


class DesiredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the settings. ``name`` with its pin, if it has one; ``digest``: what is published under it.

    ``state``: ``published`` (current, as far as the last check knows), ``pulling``, ``pending`` (an update, or the
    first pull, waits: ``reason`` says for what), ``failing`` (``reason``, retried at ``next_check``), ``held`` (the
    last daemon died under its pull), ``pinned`` (by a rollback: ``reason`` says whose; ``pending``: what is newer),
    ``unknown`` (not looked at yet). ``pending``: the digest that waits. ``moved_back``: when this digest was published
    before, if the registry's tag has moved back to it.
    ``size``, ``done``: of the running pull, else of what is published.
    """

    name: str
    state: str
    digest: str | None
    pending: str | None
    size: int
    done: int
    job: str | None
    reason: str | None
    failures: int
    last_check: str | None
    next_check: str | None
    moved_back: str | None = None


class UnmanagedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is there and that the settings do not name. ``left_over``: the reconcile once published it."""

    name: str
    digest: str
    size: int
    left_over: bool


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The store. ``size``: of all blobs that models name, each once; ``saved``: what copies of its own would add.

    ``broken``: files that Ollama would take for models and that are none. ``as_of``: when this was counted.
    """

    path: str
    models: int
    blobs: int
    size: int
    saved: int
    free: int
    broken: int
    as_of: str


class JobInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A job. ``state``: running, done, failed or cancelled. ``error``: why, where it failed."""

    id: str
    kind: str
    name: str
    state: str
    phase: str | None
    asked_by: str
    started: str
    ended: str | None
    size: int
    done: int
    error: str | None


class RolloutInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The latest rollout of a model. ``digest``: what goes to the servers; ``previous``: what it replaced.

    ``change``: ``new``, ``weights``, ``text``, or ``asked`` (an operator's reload). ``state``: ``running``, ``halted``
    (``reason`` says where), ``done``, ``reverting``, or ``reverted`` (the previous version is back, this one is
    refused). ``done``, ``failed``, ``waiting``: servers.
    """

    name: str
    digest: str
    previous: str | None
    change: str
    state: str
    since: str
    done: tuple[str, ...]
    failed: tuple[str, ...]
    waiting: tuple[str, ...]
    reason: str | None


class InstanceModel(msgspec.Struct, frozen=True, kw_only=True):
    """A published model on a server. ``state``: ``proved`` (it made a token or an embedding since it last started).

    Else ``loaded`` (into memory), ``loading``, ``served`` (it lists this version and can show it), ``stale`` (it holds
    an older version's weights, until ``stale_until``; null: until it is told to let go), ``hosted`` (a mere stub, never
    probed), ``missing``, ``failing`` (``reason``: ``refused``, ``timeout``, ``not_found``, ``status``,
    ``wrong_digest``, ``empty`` or ``protocol``; ``message``), or ``unknown``. ``available``: a request would be
    answered with the published version, as far as is known. ``stale`` may be true beside other words.
    """

    name: str
    digest: str
    state: str
    available: bool
    proved: str | None
    stale: bool
    stale_until: str | None
    reason: str | None
    message: str | None


class InstanceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A server. ``up``: it answered lately; null: nobody has asked yet. ``error``: what its last look failed with."""

    name: str
    url: str
    up: bool | None
    version: str | None
    error: str | None
    models: tuple[InstanceModel, ...]


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /syncd/v1/status``: everything at a glance. ``jobs``: those that run, then those that ended lately.

    ``daemon``: null where none runs, and ``syncd status`` tells what the store alone can say; no daemon leaves it out.
    ``docker``: what is wrong with the Engine, with containers' labels, and with how they see the store, in words.
    """

    daemon: DaemonInfo | None
    settings: SettingsInfo
    store: StoreInfo
    models: tuple[DesiredModel, ...]
    unmanaged: tuple[UnmanagedModel, ...]
    jobs: tuple[JobInfo, ...]
    rollouts: tuple[RolloutInfo, ...] = ()
    instances: tuple[InstanceInfo, ...] = ()
    docker: tuple[str, ...] = ()
    collection: CollectionInfo | None = None
    pins: PinsInfo | None = None
    scrub: ScrubInfo | None = None
    repairs: tuple[WaitingRepair, ...] = ()


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /syncd/v1/events``: a fact, as it happens. ``name``: the model that it is about, ``job``: the job.

    ``event``: ``job.started``, ``job.ended``, ``settings.applied``, ``settings.refused``, ``model.restored``,
    ``model.pending``, ``model.removed``, ``model.moved_back``, ``instance.up``, ``instance.down``,
    ``instance.failing``,
    ``rollout.started``, ``rollout.tried``, ``rollout.halted``, ``rollout.done``, ``rollout.reverted``,
    ``server.prewarmed``, ``blob.damaged``, ``blob.mended``, ``blob.quarantined``, ``blob.kept``, ``blob.later`` (a try
    at mending it failed), ``repair.reloaded``, ``heartbeat``.
    """

    event: str
    time: str
    name: str | None = None
    job: str | None = None
    detail: str | None = None


class PullRequest(msgspec.Struct, frozen=True):
    """``POST /syncd/v1/pull``. ``name`` may carry a pin."""

    name: str


class RemoveRequest(msgspec.Struct, frozen=True):
    """``POST /syncd/v1/remove``."""

    name: str
    dry_run: bool = False


class VerifyRequest(msgspec.Struct, frozen=True):
    """``POST /syncd/v1/verify``. ``names``: null means all."""

    names: tuple[str, ...] | None = None


class CancelRequest(msgspec.Struct, frozen=True):
    """``POST /syncd/v1/cancel``: one of the two. ``name`` means every pull of it."""

    job: str | None = None
    name: str | None = None


class ReloadRequest(msgspec.Struct, frozen=True):
    """``POST /syncd/v1/reload``. ``models``, ``instances``: null means all.

    ``prove``: reload nothing, and make a token of each model where that is allowed. ``resume``: go on with rollouts
    that have halted; it goes to all of their servers.
    """

    models: tuple[str, ...] | None = None
    instances: tuple[str, ...] | None = None
    prove: bool = False
    resume: bool = False


class ReloadTried(msgspec.Struct, frozen=True, tag_field="event", tag="tried"):
    """How a model stands on a server. ``result``: ``proved``, ``served``, or ``failed`` (``reason`` says why).

    ``stale``: the server still holds older weights, until ``stale_until`` (null: until it is told to let go of them).
    """

    instance: str
    model: str
    result: str
    reason: str | None
    stale: bool
    stale_until: str | None


class ReloadEnded(msgspec.Struct, frozen=True, tag_field="event", tag="reloaded"):
    """Last line of a reload: how it ended for each model."""

    rollouts: tuple[RolloutInfo, ...]


class Jobs(msgspec.Struct, frozen=True):
    """``GET /syncd/v1/jobs``."""

    jobs: tuple[JobInfo, ...]


class Cancelled(msgspec.Struct, frozen=True):
    """The answer to a cancellation: the jobs that were running and were asked to stop."""

    cancelled: tuple[JobInfo, ...]
