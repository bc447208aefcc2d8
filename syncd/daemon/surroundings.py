"""The settings' part of what is around a store, as jobs see it."""

import os
from collections.abc import Iterator
from pathlib import Path

from syncd.daemon.loaded import Loaded
from syncd.daemon.places import socket_candidates
from syncd.jobs.surroundings import RegistryPlace, SecretFile, Surroundings

# As systemd looks for units: the first that has one counts (systemd.unit(5), "System Unit Search Path").
_UNITS = tuple(
    map(
        Path, ("/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system")
    )
)


def surroundings_of(loaded: Loaded) -> Surroundings:
    """What they say."""
    settings = loaded.settings
    return Surroundings(
        docker_url=None if settings.docker.url is None else str(settings.docker.url),
        sockets=tuple(socket_candidates(settings, os.environ)),
        registries={
            host: RegistryPlace(table.plain_http, table.ca_file, table.mirrors)
            for host, table in settings.registries.items()
        },
        secrets=tuple(_secrets(loaded)),
        scrub_every=settings.scrub.every,
        units=_UNITS,
    )


def _secrets(loaded: Loaded) -> Iterator[SecretFile]:
    for host, table in loaded.settings.registries.items():
        for key, path in (
            ("password_file", table.password_file),
            ("token_file", table.token_file),
            ("key_file", table.key_file),
        ):
            if path is not None:
                yield SecretFile(path, loaded.origin(("registries", host, key)) or key)
    control = loaded.settings.control
    if control.token_file is not None:
        yield SecretFile(control.token_file, loaded.origin(("control", "token_file")) or "token_file")
