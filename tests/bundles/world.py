"""Stores with models, bundles of them, and archives as others write them: in any order, cut, lying, hostile."""

import asyncio
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from syncd.jobs import bundle
from syncd.jobs.bundle import Stream
from syncd.jobs.export import Exported, ExportProgress, export
from syncd.jobs.importing import LocatedSupply, ReceivedSupply, take_in
from syncd.jobs.policy import NO_POLICY, Policy
from syncd.jobs.progress import PullOutcome, PullProgress
from syncd.jobs.received import Received
from syncd.oci.name import ModelName
from syncd.store.root import Store
from tests.adopt.world import adopted, lay
from tests.support import commands
from tests.support.content import digest_of, whole
from tests.support.models import Model, model_from

OCI_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MARKER = b'{"imageLayoutVersion":"1.0.0"}'

Entry = tuple[str, bytes]


def filled(folder: Path, *models: Model) -> Path:
    """A store of syncd's that has these models; ``folder``, for short."""
    source = lay(folder.with_name(f"{folder.name}-source"), *models)
    with Store.open(folder, create=True) as store:
        asyncio.run(adopted(store, source))
    return folder


def names(*models: Model) -> list[ModelName]:
    return [ModelName.parse(model.name) for model in models]


def exported(store: Path, *models: Model) -> bytes:
    """The bundle of these models of the store."""
    content = io.BytesIO()
    with Store.open(store, create=False) as opened:
        asyncio.run(export_to(opened, names(*models), content.write))
    return content.getvalue()


async def export_to(
    store: Store,
    wanted: Iterable[ModelName],
    write: Callable[[bytes | memoryview], object],
    report: Callable[[ExportProgress], None] = lambda _: None,
) -> Exported:
    """An export into ``write``."""

    def take(content: bytes | memoryview, _cancelled: Callable[[], bool]) -> None:
        write(content)

    return await export(store, wanted, take, report)


async def taken_in(
    store: Store,
    path: Path | None,
    *,
    stream: int | None = None,
    name: ModelName | None = None,
    policy: Policy = NO_POLICY,
    floor: int = 0,
    report: Callable[[PullProgress], None] = lambda _: None,
) -> Mapping[ModelName, PullOutcome]:
    """An import of all that is in the bundle at ``path``, or that comes in at the descriptor ``stream``."""
    origin = path or Path("a pipe")
    with ExitStack() as stack:
        if stream is None:
            found = bundle.opened(path, stack)
            assert not isinstance(found, Stream)
            models = bundle.chosen(bundle.offered(found), name)
            supply: LocatedSupply | ReceivedSupply = LocatedSupply(found, origin)
        else:
            received = Received(store, name, policy, floor)
            stack.callback(received.close)
            received.take(Stream(stream), origin, on_bytes=lambda _: None, cancelled=lambda: False)
            models, supply = received.chosen(), ReceivedSupply(received, store, origin)
        return {
            one: await take_in(one, models[one], supply, store, report, origin="bundle", floor=floor, policy=policy)
            for one in sorted(models)
        }


@dataclass(frozen=True, slots=True)
class Layout:
    """The members of an image layout, to be changed and written in any order."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, *models: Model, refs: Sequence[str | None] | None = None) -> "Layout":
        """The layout of these models: index first, each under its full name unless ``refs`` says otherwise."""
        named = refs if refs is not None else [ModelName.parse(model.name).qualified for model in models]
        index = index_of([(model.manifest, ref) for model, ref in zip(models, named, strict=True)])
        blobs = {digest: whole(content) for model in models for digest, content in model.blobs.items()}
        blobs |= {model.digest: model.manifest for model in models}
        parts = [(member(digest), content) for digest, content in blobs.items()]
        return cls((("oci-layout", MARKER), ("index.json", index), *parts))

    def reversed(self) -> "Layout":
        """The index last but one, the marker last, as skopeo writes them."""
        return Layout(tuple(reversed(self.entries)))

    def without(self, name: str) -> "Layout":
        return Layout(tuple(entry for entry in self.entries if entry[0] != name))

    def having(self, name: str, content: bytes) -> "Layout":
        """With another content of that member, or one more."""
        changed = tuple((one, content if one == name else held) for one, held in self.entries)
        return Layout(changed if changed != self.entries else (*self.entries, (name, content)))

    def tar(self, *, format: int = tarfile.USTAR_FORMAT, prefix: str = "") -> bytes:  # noqa: A002 - tarfile's word
        return tarred([(prefix + name, content) for name, content in self.entries], format=format)


def index_of(manifests: Iterable[tuple[bytes, str | None]], **more: object) -> bytes:
    listed = [
        {
            "mediaType": OCI_TYPE,
            "digest": digest_of(raw),
            "size": len(raw),
            **({} if ref is None else {"annotations": {"org.opencontainers.image.ref.name": ref}}),
            **more,
        }
        for raw, ref in manifests
    ]
    return json.dumps({"schemaVersion": 2, "manifests": listed}).encode()


def member(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def tarred(entries: Iterable[Entry | tarfile.TarInfo], *, format: int = tarfile.USTAR_FORMAT) -> bytes:  # noqa: A002 - tarfile's word
    """An archive of these files; of what is given as a header, nothing but that."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=format) as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return content.getvalue()


def small(name: str, seed: str = "") -> Model:
    """A model of a few bytes that shares its template with all others."""
    return model_from(name, [("model", f"weights of {name} {seed}".encode() * 50), ("template", b"shared")])


def piped(content: bytes) -> tuple[int, threading.Thread]:
    """A descriptor that this comes out of, and who writes it: join that one."""
    out, into = os.pipe()

    def write() -> None:
        rest = memoryview(content)
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(into, rest[: 1 << 16]) :]
        os.close(into)

    thread = threading.Thread(target=write, name="writer")
    thread.start()
    return out, thread


def syncd(store: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """The command, on this store, with no daemon and no settings but small ones."""
    with started(store, *arguments) as process:
        out, errors = process.communicate_bytes()
        return subprocess.CompletedProcess(["syncd", *arguments], process.wait(), out, errors)


def started(
    store: Path, *arguments: str, streams: commands.Streams = commands.OWN, user: str | None = None
) -> commands.Process:
    """Likewise, and it goes on."""
    whole_line = ("--store", str(store), *arguments)
    return commands.Process.start(*whole_line, environ=environment(store), streams=streams, cwd=Path("/"), user=user)


def environment(store: Path) -> dict[str, str]:
    settings = store.with_name("syncd.toml")
    settings.write_text(f'min_free = "1 MiB"\n[control]\nsocket = "{store.with_name("none.sock")}"\n')
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(store.parent), "SYNCD_CONFIG": str(settings)}
