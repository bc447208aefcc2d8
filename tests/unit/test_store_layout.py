"""Names of files, and the file systems that they may lie on."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import InvalidNameError
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.mounts import file_system_of, is_network

digests = st.binary(min_size=0, max_size=8).map(Digest.of)
MOUNTINFO = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /srv rw - nfs4 server:/export rw,vers=4.2
31 30 254:1 / /srv/local\040disk rw shared:7 - xfs /dev/vdb rw
40 22 0:40 / /data rw - ext4 /dev/vdc rw
41 22 0:41 / /data rw - cifs //host/data rw
broken line
""".splitlines()


@given(digests)
def test_a_blobs_file_names_its_digest(digest: Digest) -> None:
    assert layout.digest_of_file(layout.blob_file(digest)) == digest
    assert layout.digest_of_staged(layout.partial_file(digest)) == digest
    assert layout.digest_of_staged(layout.journal_file(digest)) == digest


@given(st.text(max_size=80))
def test_no_other_file_is_taken_for_a_blob(name: str) -> None:
    digest = layout.digest_of_file(name)

    assert digest is None or layout.blob_file(digest) == name


def test_a_trailing_newline_is_no_part_of_a_digest() -> None:
    assert layout.digest_of_file("sha256-" + 64 * "a" + "\n") is None


def test_names_that_ollama_takes_for_one_share_a_lock() -> None:
    assert layout.name_lock(ModelName.parse("Mistral:7B")) == layout.name_lock(ModelName.parse("mistral:7b"))
    assert layout.name_lock(ModelName.parse("mistral:7b")) != layout.name_lock(ModelName.parse("mistral:8b"))


def test_a_host_that_no_file_system_can_name_is_refused() -> None:
    with pytest.raises(InvalidNameError, match="256 characters"):
        layout.manifest_parts(ModelName("h" * 256, "library", "m", "latest"))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/models", "nfs4"),
        ("/srvother", "ext4"),
        ("/srv/local disk/models", "xfs"),
        ("/data/models", "cifs"),  # the later mount hides the earlier one
    ],
)
def test_the_longest_and_latest_mount_decides(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTINFO) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "9p", "fuse.sshfs", "ceph", "glusterfs"]
)
def test_file_systems_that_hosts_share_are_known(kind: str) -> None:
    assert is_network(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fuse.mergerfs"])
def test_local_file_systems_are_known(kind: str) -> None:
    assert not is_network(kind)
