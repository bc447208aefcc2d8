"""Pulls by this process: registries, connections and store put together."""

import random
import time
from collections.abc import Sequence

from syncd.cli import running
from syncd.cli.credentials import access_for
from syncd.cli.place import Limits
from syncd.cli.render import PullView
from syncd.cli.session import Session
from syncd.daemon.access import Access
from syncd.daemon.loaded import Loaded
from syncd.daemon.rules import policy_of
from syncd.download.fetch import Fetcher
from syncd.download.means import FetchSettings
from syncd.errors import ExitCode, SyncdError
from syncd.jobs.known import KnownManifests
from syncd.jobs.pull import PullMeans
from syncd.jobs.pull import pull as pull_one
from syncd.oci.name import Reference
from syncd.registry.client import RegistryClient
from syncd.store.root import Store

_CONNECT_TIMEOUT = 15.0  # seconds
_OTHER_THREADS = 16  # beside one for each connection: hashing, syncing, looking
_ANSWER_TIMEOUT = 60.0  # seconds; a registry may take its time over the headers of a cold blob


def pull(
    session: Session, references: Sequence[Reference], limits: Limits, view: PullView, access: Access | None = None
) -> int:
    """Pull one after another, ``view`` entered meanwhile; the exit code of the first that failed, else 0."""
    access = access or access_for(session, references)
    download = session.loaded.settings.download
    fetching = FetchSettings(
        connections=limits.connections or download.connections,
        max_rate=download.max_rate if limits.max_rate is None else limits.max_rate,
        stall_timeout=download.stall_timeout,
    )
    with session.open_store(create=True, writes=True) as store, view:
        return running.run(
            _pull_all(references, store, session.loaded, access, fetching, view),
            hint="run the same command to resume",
            threads=fetching.connections + _OTHER_THREADS,
        )


async def _pull_all(
    references: Sequence[Reference],
    store: Store,
    loaded: Loaded,
    access: Access,
    fetching: FetchSettings,
    view: PullView,
) -> int:
    """Pull one after another; the exit code of the first that failed, else 0."""
    code = ExitCode.DONE
    async with RegistryClient(
        access.configs,
        default=access.default,
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_ANSWER_TIMEOUT,
        random=random.random,
    ) as registry:
        fetcher = Fetcher(registry, fetching, clock=time.monotonic, random=random.random)
        means = PullMeans(
            store=store,
            registry=KnownManifests(registry, store, loaded.pins),
            fetcher=fetcher,
            floor=loaded.settings.min_free,
            policy=policy_of(loaded),
        )
        for reference in references:
            try:
                wanted = loaded.resolved(reference)
                loaded.refuse_other_than_pinned(wanted)
                view.done(await pull_one(wanted, means, view.show))
            except SyncdError as error:
                view.failed(reference, error)
                code = code or error.exit_code
                running.heed_cancellation()
    return code
