"""What has been seen of one server: what it keeps in its memory, and when nobody can tell."""

import pytest

from syncd.daemon.fleet_seen import Seen
from syncd.instances.ollama import Loaded, Reason
from syncd.instances.probe import Fault, Look, Proof, Published
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

HEX = "5" * 64
MISTRAL = Published(ModelName.parse("mistral:7b"), HEX, frozenset({"6" * 64}), since=0.0)


def looked(at: float, *digests: str, fault: Reason | None = None) -> Look:
    loaded = tuple(
        Loaded(name="mistral:7b", digest=digest, expires=None, context_length=4096, size=1, vram=1)
        for digest in digests
    )
    return Look(
        at, at, None if fault else "0.12.6", {}, loaded, None if fault is None else Fault(fault, "it failed", at)
    )


def seen(*looks: Look) -> Seen:
    it = Seen()
    for look in looks:
        it.take_in(look, (MISTRAL,), dropped=False)
    return it


def test_a_server_that_nobody_has_looked_at_leaves_a_doubt() -> None:
    assert seen().unsettled("one", 0.0) == "nobody has looked yet at what one has loaded"


def test_what_a_server_tells_to_have_loaded_leaves_none() -> None:
    it = seen(looked(1.0, HEX))

    assert it.loaded() == {Digest.parse(f"sha256:{HEX}")}
    assert it.unsettled("one", 1.0) is None


@pytest.mark.parametrize("digest", ["", "latest", HEX[:12]])
def test_a_server_that_has_something_loaded_and_does_not_tell_what_leaves_a_doubt(digest: str) -> None:
    it = seen(looked(1.0, HEX, digest))

    assert it.loaded() == {Digest.parse(f"sha256:{HEX}")}
    assert it.unsettled("one", 1.0) == "one has something loaded and does not tell what"


def test_what_a_server_had_loaded_that_hangs_now_it_may_have_still() -> None:
    it = seen(looked(1.0, HEX), looked(2.0, fault=Reason.TIMEOUT))

    assert it.loaded() == {Digest.parse(f"sha256:{HEX}")}
    assert it.unsettled("one", 2.0) == "nobody knows what one has loaded: it failed"


def test_a_server_that_went_down_has_nothing_loaded_and_is_expected_back_for_ten_minutes() -> None:
    it = seen(looked(1.0, HEX), looked(2.0, fault=Reason.REFUSED), looked(300.0, fault=Reason.REFUSED))

    assert it.loaded() == frozenset()
    assert it.unsettled("one", 601.0) == "one has just gone down, or is about to start"
    assert it.unsettled("one", 602.0) is None


def test_a_proof_that_was_tried_counts_for_one_version_and_one_life() -> None:
    it = seen(looked(1.0))
    it.attempt(MISTRAL, 10.0)

    assert it.was_tried(MISTRAL, since=9.0)
    assert not it.was_tried(MISTRAL, since=10.0)
    it.begin_life()
    assert not it.was_tried(MISTRAL, since=9.0)


def test_nothing_is_kept_of_models_that_nobody_wants_to_know_of() -> None:
    it = seen(looked(1.0))
    it.prove(MISTRAL, Proof(HEX, 1, 2.0, 2.0), looked(1.0), looked(2.0))
    assert it.of(MISTRAL.name).proof is not None

    it.take_in(looked(3.0), (), dropped=False)

    assert it.of(MISTRAL.name).proof is None
