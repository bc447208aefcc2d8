"""What ``syncd status`` can say without a daemon: from the settings and the store."""

from collections.abc import Iterable

from syncd.api import v1
from syncd.api.catalogue import rfc3339
from syncd.api.collected import CollectionInfo
from syncd.api.repairs import WaitingRepair
from syncd.api.scrub import scrub_info
from syncd.daemon.inventory import Count, count
from syncd.daemon.loaded import Loaded
from syncd.daemon.pinned import pins_info
from syncd.daemon.settings import ModelSettings
from syncd.jobs.damage import Damage
from syncd.jobs.repair import survey
from syncd.jobs.scrub_book import reviewed
from syncd.oci.name import Reference
from syncd.store import collected, scrubs
from syncd.store.holds import Hold
from syncd.store.root import Store
from syncd.text import printable


def status(store: Store, loaded: Loaded, now: float) -> v1.Status:
    """The state of ``store`` at ``now`` (seconds since the epoch). Blocks; raise ``SyncdError``."""
    held = count(store.models.list(), free=store.free_bytes(), now=now)
    holds = store.holds.all()
    return v1.Status(
        daemon=None,
        settings=v1.SettingsInfo(
            files=tuple(printable(str(file.path), limit=4096) for file in loaded.files),
            loaded=rfc3339(now),
            fault=None,
            needs_restart=(),
        ),
        store=v1.StoreInfo(
            path=printable(str(store.path), limit=4096),
            models=len(held.models),
            blobs=held.blobs,
            size=held.size,
            saved=held.saved,
            free=held.free,
            broken=held.broken,
            as_of=rfc3339(now),
        ),
        models=tuple(_desired(model, held, holds) for model in loaded.settings.models),
        unmanaged=tuple(
            v1.UnmanagedModel(name=str(one.name), digest=str(one.digest), size=one.size, left_over=False)
            for one in held.models
            if loaded.where(one.name) is None
        ),
        jobs=(),
        pins=pins_info(loaded, holds, held),
        collection=_collection(store, loaded),
        scrub=scrub_info(reviewed(store, scrubs.load(store.state)), every=loaded.settings.scrub.every),
        repairs=tuple(_damaged(one) for one in survey(store, None)),
    )


def _damaged(damage: Damage) -> WaitingRepair:
    return WaitingRepair(
        digest=str(damage.blob.digest),
        size=damage.blob.size,
        models=tuple(str(name) for name in damage.models),
        detail=damage.detail,
        reason=None,
        next_try=None,
    )


def _collection(store: Store, loaded: Loaded) -> CollectionInfo:
    note, every = collected.read(store.state), loaded.settings.collect.every
    return CollectionInfo(
        every=None if every is None else float(every),  # of float itself: JSON is made of no other
        last=rfc3339(note.completed) if note.completed else None,
        freed=note.freed,
        quarantine=sum(one.size for one in store.sweep.quarantined()),
        reclaimable=None,
    )


def _desired(model: ModelSettings, held: Count, holds: Iterable[Hold]) -> v1.DesiredModel:
    """``published`` if the store has it, and what the pin says, else ``pending``: nobody is there to pull it."""
    wanted = model.name
    hold = next((one for one in holds if one.name.folded == wanted.name.folded), None)
    if hold is not None and wanted.digest is None:
        wanted = Reference(wanted.name, hold.manifest.digest)
    stored = next((one for one in held.models if one.name.folded == wanted.name.folded), None)
    right = stored is not None and wanted.digest in {None, stored.digest}
    return v1.DesiredModel(
        name=str(model.name),
        state="pending" if not right else "published" if wanted == model.name else "pinned",
        digest=str(stored.digest) if stored else None,
        pending=str(wanted.digest) if wanted.digest and not right else None,
        size=stored.size if stored else 0,
        done=stored.size if stored else 0,
        job=None,
        reason=None if right else "no daemon runs that would pull it",
        failures=0,
        last_check=None,
        next_check=None,
    )
