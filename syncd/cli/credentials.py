"""What opens registries to a command of its own, read before it opens a store."""

import os
from collections.abc import Sequence

from syncd.cli.session import Session
from syncd.daemon.access import Access, ollama_key, registry_access
from syncd.oci.name import Reference


def access_for(session: Session, references: Sequence[Reference]) -> Access:
    """What opens the registries of these. Before the store: who opens that may no longer be allowed to read it."""
    access = registry_access(
        session.loaded, os.environ, own_key=ollama_key(), asked=[one.name.host for one in references]
    )
    for notice in access.notices:
        session.notice(f"warning: {notice}")
    return access
