"""Archives that nobody sends in good faith, or that something happened to: each has its error and changes nothing."""

import asyncio
import gzip
import io
import json
import os
import resource
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncd.errors import IntegrityError, SyncdError
from syncd.oci.digest import Digest
from syncd.store import archive
from syncd.store.archive import ArchiveError, members
from syncd.store.reading import FileCursor
from syncd.store.root import Store
from tests.bundles.world import MARKER, Layout, index_of, member, piped, small, taken_in, tarred
from tests.support.content import digest_of
from tests.support.models import Model, model_from
from tests.support.oracle import snapshot

ONE = small("one:1b")
LAYOUT = Layout.of(ONE)
WEIGHTS = member(ONE.weights)


@pytest.fixture
def host(other: Path) -> Iterator[Store]:
    """A store that has another model."""
    with Store.open(other, create=True) as store:
        source = other.with_name("two.tar")
        source.write_bytes(Layout.of(small("two:1b")).tar())
        asyncio.run(taken_in(store, source))
        yield store


def special(name: str, kind: bytes, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def with_first(entry: tarfile.TarInfo) -> bytes:
    return tarred([entry, *LAYOUT.entries], format=tarfile.PAX_FORMAT)


def resized(content: bytes, name: str, size: bytes) -> bytes:
    """The archive, one member's header saying another size (12 bytes), its checksum right."""
    at = content.index(name.encode())
    block = bytearray(content[at : at + archive.BLOCK])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return content[:at] + bytes(block) + content[at + archive.BLOCK :]


def manifest_with(**changes: object) -> Layout:
    """The layout with its manifest changed, and named as it is now."""
    raw = json.dumps({**json.loads(ONE.manifest), **changes}).encode()
    return LAYOUT.having("index.json", index_of([(raw, "registry.ollama.ai/library/one:1b")])).having(
        member(digest_of(raw)), raw
    )


def pax(name: str, records: dict[str, str]) -> bytes:
    return with_first(special(name, tarfile.REGTYPE, pax_headers=records))


def raw_pax(content: bytes) -> bytes:
    """The layout behind a pax header of just this."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    return info.tobuf(tarfile.USTAR_FORMAT) + content + archive.padding(len(content)) + LAYOUT.tar()


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "cut off"),
    "no archive": (lambda: b"this is a letter to my mother" * 100, "no tar archive"),
    "packed": (lambda: gzip.compress(LAYOUT.tar()), "packed with gzip"),
    "packed with zstd": (lambda: b"\x28\xb5\x2f\xfd" + bytes(1000), "packed with zstd"),
    "no layout": (lambda: tarred([("holiday.jpg", b"sun")]), "no OCI image layout"),
    "no marker": (lambda: LAYOUT.without("oci-layout").tar(), "'oci-layout'"),
    "no index": (lambda: LAYOUT.without("index.json").tar(), "'index.json'"),
    "another layout": (lambda: LAYOUT.having("oci-layout", b'{"imageLayoutVersion":"2"}').tar(), "version '2'"),
    "an empty index": (lambda: LAYOUT.having("index.json", index_of([])).tar(), "names no image"),
    "an index that is no JSON": (lambda: LAYOUT.having("index.json", b"{").tar(), "index cannot be used"),
    "an index with a key twice": (lambda: LAYOUT.having("index.json", b'{"a":1,"a":2}').tar(), "twice"),
    "an index nested deeply": (lambda: LAYOUT.having("index.json", b"[" * 50_000).tar(), "deeper"),
    "an index of 5 MiB": (lambda: LAYOUT.having("index.json", b" " * (5 << 20)).tar(), "more than"),
    "a digest that is none": (
        lambda: LAYOUT.having("index.json", index_of([(b"x", None)]).replace(b"sha256:", b"sha256:../")).tar(),
        "not a sha256 digest",
    ),
    "a manifest that is not there": (lambda: LAYOUT.without(member(ONE.digest)).tar(), "does not hold"),
    "a manifest of another size": (
        lambda: LAYOUT.having("index.json", index_of([(ONE.manifest, "x")]).replace(b'"size": ', b'"size": 1')).tar(),
        "something else",
    ),
    "a manifest of 5 MiB": (
        lambda: LAYOUT.having(
            "index.json",
            json.dumps(
                {"schemaVersion": 2, "manifests": [{"digest": ONE.digest, "size": 5 << 20}]},
            ).encode(),
        ).tar(),
        "impossible size",
    ),
    "a manifest of a negative size": (
        lambda: manifest_with(config={"mediaType": "a/b", "digest": ONE.config, "size": -1}).tar(),
        "impossible size",
    ),
    "a manifest with a digest that leads outside": (
        lambda: manifest_with(config={"mediaType": "a/b", "digest": "sha256:../../etc/passwd", "size": 3}).tar(),
        "not a sha256 digest",
    ),
    "other bytes in a blob": (lambda: LAYOUT.having(WEIGHTS, b"?" * ONE.weights_size).tar(), "damaged"),
    "other bytes in a manifest": (lambda: LAYOUT.having(member(ONE.digest), b"{}").tar(), "something else|damaged"),
    "a blob of another size": (lambda: LAYOUT.having(WEIGHTS, b"short").tar(), "bytes, and the manifest says|damaged"),
    "a blob that is not there": (lambda: LAYOUT.without(WEIGHTS).tar(), "does not hold"),
    "a list of two models": (
        lambda: (
            LAYOUT.having(
                "index.json", index_of([(two := index_of([(ONE.manifest, None), (ONE.manifest, None)]), "x")])
            )
            .having(member(digest_of(two)), two)
            .tar()
        ),
        "no manifest|list of|no list of layers",
    ),
    "a list that says it is a manifest": (
        lambda: (
            LAYOUT.having("index.json", index_of([(raw := index_of([(ONE.manifest, None)]), "x")]))
            .having(member(digest_of(raw)), raw)
            .tar()
        ),
        "list of manifests",
    ),
    "one name, two manifests": (
        lambda: Layout.of(ONE, small("three:1b"), refs=["registry.ollama.ai/library/one:1b"] * 2).tar(),
        "two manifests",
    ),
    "a name with a way out": (
        lambda: Layout.of(ONE, refs=["registry.ollama.ai/../../../../tmp/x:1b"]).tar(),
        "full name",
    ),
    "a member twice": (lambda: tarred([*LAYOUT.entries, ("./index.json", b"{}")]), "twice"),
    "a symbolic link": (
        lambda: with_first(special("blobs", tarfile.SYMTYPE, linkname="/etc")),
        "a symbolic link",
    ),
    "a hard link": (
        lambda: with_first(special("index.json", tarfile.LNKTYPE, linkname="/etc/shadow")),
        "a hard link",
    ),
    "a device": (lambda: with_first(special("null", tarfile.CHRTYPE, devmajor=1, devminor=3)), "a device"),
    "a FIFO": (lambda: with_first(special("index.json", tarfile.FIFOTYPE)), "a FIFO"),
    "a sparse file of GNU's": (lambda: with_first(special(WEIGHTS, tarfile.GNUTYPE_SPARSE)), "sparse"),
    "a sparse file of pax's": (lambda: pax("x", {"GNU.sparse.map": "0,1"}), "sparse"),
    "a pax size that is none": (lambda: pax("x", {"size": "-5"}), "impossible size"),
    "a pax size beyond all": (lambda: pax("x", {"size": "9" * 30}), "impossible size"),
    "a pax record whose length has thousands of digits": (
        lambda: raw_pax(b"000006000".ljust(5000, b"1") + b" size=1\n".rjust(60_000, b" ")),
        "pax header of it is damaged",
    ),
    "a pax record that ends behind its header": (lambda: raw_pax(b"99 size=1\n"), "pax header of it is damaged"),
    "a pax record of no length": (lambda: raw_pax(b"0 size=1\n"), "pax header of it is damaged"),
    "a pax record without a length": (lambda: raw_pax(b"size=1\n"), "pax header of it is damaged"),
    "a huge member": (lambda: resized(LAYOUT.tar(), WEIGHTS, b"77777777777\0"), "cut off|needs|impossible|says"),
    "a member of 2**80 bytes": (
        lambda: resized(LAYOUT.tar(), WEIGHTS, b"\x80\0" + b"\xff" * 10),
        "impossible size",
    ),
    "a member of less than nothing": (
        lambda: resized(LAYOUT.tar(), WEIGHTS, b"\xff" * 11 + b"\x9c"),
        "impossible size",
    ),
    "a damaged header": (
        lambda: LAYOUT.tar().replace(WEIGHTS.encode(), WEIGHTS.encode()[:-1] + b"!"),
        "no tar archive",
    ),
    "no end": (lambda: LAYOUT.tar().rstrip(b"\0") + bytes(-len(LAYOUT.tar().rstrip(b"\0")) % 512), "cut off"),
    "half of it": (lambda: LAYOUT.tar()[: len(LAYOUT.tar()) // 8], "cut off"),
    "more members than any layout has": (
        lambda: archive.header("x", 0) * (archive.MAX_MEMBERS + 1) + archive.END,
        "more than",
    ),
}


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
@pytest.mark.parametrize("case", ARCHIVES)
def test_a_hostile_archive_is_an_error_and_changes_nothing(host: Store, tmp_path: Path, case: str, pipe: bool) -> None:
    made, words = ARCHIVES[case]
    before = snapshot(host.path)

    with pytest.raises(IntegrityError, match=words):
        brought(host, tmp_path, made(), pipe=pipe)

    assert (
        snapshot(host.path)["manifests/registry.ollama.ai/library/two/1b"]
        == before["manifests/registry.ollama.ai/library/two/1b"]
    )
    assert {path for path in snapshot(host.path) if path.startswith("manifests")} == {
        path for path in before if path.startswith("manifests")
    }
    assert not [path for path in (host.path / ".syncd" / "staging").iterdir() if path.suffix == ".partial"]


def brought(store: Store, folder: Path, content: bytes, *, pipe: bool) -> None:
    if not pipe:
        bundle = folder / "bundle.tar"
        bundle.write_bytes(content)
        asyncio.run(taken_in(store, bundle))
        return
    out, writer = piped(content)
    try:
        asyncio.run(taken_in(store, None, stream=out))
    finally:
        os.close(out)
        writer.join(30)


def test_paths_that_lead_outside_are_never_followed(host: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    entries = [("../outside", b"here"), (str(outside), b"here"), ("blobs/sha256/../../outside", b"here")]

    brought(host, tmp_path, tarred([*entries, *LAYOUT.entries]), pipe=False)

    assert not outside.exists()
    assert not list(host.path.rglob("outside"))


def test_a_folder_with_links_is_not_followed(host: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(index_of([(ONE.manifest, "registry.ollama.ai/library/one:1b")]))
    layout = tmp_path / "layout"
    layout.mkdir()
    (layout / "oci-layout").write_bytes(MARKER)
    (layout / "index.json").symlink_to(secret)

    with pytest.raises(SyncdError, match="symbolic link"):
        asyncio.run(taken_in(host, layout))


def test_a_million_members_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    bundle = tmp_path / "many.tar"
    block = archive.header("blobs/sha256/" + "a" * 64, 0) * 1000
    with bundle.open("wb") as file:
        for _ in range(1000):
            file.write(block)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with bundle.open("rb") as file, pytest.raises(ArchiveError, match="more than"):
        for _ in members(FileCursor(file.fileno(), bundle)):
            pass

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_many_big_blobs_before_the_index_are_bounded(
    host: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.jobs.received._MAX_SPOOLED", 2)
    monkeypatch.setattr("syncd.jobs.received._MAX_MEMORY", 100)
    model: Model = model_from(
        "many:1b", [("model" if not number else "license", bytes([number]) * 200) for number in range(5)]
    )

    with pytest.raises(ArchiveError, match="more than 2 of its blobs"):
        brought(host, tmp_path, Layout.of(model).reversed().tar(), pipe=True)

    brought(host, tmp_path, Layout.of(model).tar(), pipe=False)


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_a_manifest_of_hundreds_of_names_takes_its_memory_once(host: Store, tmp_path: Path, pipe: bool) -> None:
    raw = json.dumps({**json.loads(ONE.manifest), "note": "x" * (3 << 20)}).encode()
    index = index_of((raw, f"registry.ollama.ai/library/{number}") for number in range(500))
    content = LAYOUT.having("index.json", index).having(member(digest_of(raw)), raw).tar()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(IntegrityError, match="full name"):
        brought(host, tmp_path, content, pipe=pipe)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_manifests_that_take_too_much_memory_together_are_refused(
    host: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: bool
) -> None:
    models = [small(f"{number}:1b") for number in range(3)]
    monkeypatch.setattr("syncd.jobs.bundle.MAX_MANIFESTS_BYTES", sum(len(one.manifest) for one in models) - 1)

    with pytest.raises(ArchiveError, match="its manifests have more than"):
        brought(host, tmp_path, Layout.of(*models).tar(), pipe=pipe)

    brought(host, tmp_path, Layout.of(*models[:2]).tar(), pipe=pipe)


def test_of_an_index_of_thousands_each_manifest_is_looked_for_once(
    host: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [b"%d" % number for number in range(3000)]
    index = index_of((blob, None) for blob in [*blobs, b"never comes"])
    content = tarred([("oci-layout", MARKER), ("index.json", index), *((member(digest_of(one)), one) for one in blobs)])
    compared = 0

    def counted(self: Digest, other: object) -> bool:
        nonlocal compared
        compared += 1
        return isinstance(other, Digest) and self.hex == other.hex

    monkeypatch.setattr(Digest, "__eq__", counted)
    with pytest.raises(SyncdError, match="not a JSON object"):
        brought(host, Path(), content, pipe=True)

    assert compared < 20 * len(blobs)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_happens_to_an_archive_it_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(LAYOUT.tar())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    bundle = tmp_path / "bundle.tar"
    bundle.write_bytes(content)
    with bundle.open("rb") as file:
        try:
            found = list(members(FileCursor(file.fileno(), bundle)))
        except ArchiveError:
            return

    assert all(0 <= one.offset <= one.offset + one.size <= len(content) for one in found)


def test_tarfile_reads_what_is_written_here() -> None:
    content = io.BytesIO(archive.header("a", 3) + b"abc" + archive.padding(3) + archive.END)

    with tarfile.open(fileobj=content) as found:
        assert [(one.name, one.size) for one in found.getmembers()] == [("a", 3)]
