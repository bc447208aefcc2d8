"""What a migration would do follows from what lies there, what sources have, what is wanted, and how servers stand."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from syncd.jobs.adoption import Decision
from syncd.jobs.migration import (
    Plan,
    Served,
    ServerView,
    ServerWork,
    Shared,
    Standing,
    WrongBlob,
    is_proved,
    plan,
    server_work,
)
from syncd.oci.digest import Digest
from syncd.oci.manifest import Manifest
from syncd.oci.name import ModelName, Reference
from syncd.store.intake import Way
from syncd.store.records import Identity
from syncd.store.source_scan import Scan, SourceBlob, SourceManifest, Stray
from tests.support.models import Model, model_from

ONE = model_from("one:1b", [("model", b"weights of one"), ("template", b"shared")])
TWO = model_from("two:1b", [("model", b"weights of two"), ("template", b"shared")])
NEWER = model_from("one:1b", [("model", b"newer weights of one"), ("template", b"shared")])
WEIGHTS = Digest.parse(ONE.weights)
SOURCE = Path("/source")


def stored(model: Model) -> SourceManifest:
    return SourceManifest("/".join(ModelName.parse(model.name).parts), ModelName.parse(model.name), parsed(model))


def parsed(model: Model) -> Manifest:
    return Manifest.parse(model.manifest)


def shared(
    *models: Model, wrong: Sequence[Digest] = (), gone: Sequence[Digest] = (), strays: Sequence[Stray] = ()
) -> Shared:
    """A folder with these models; ``broken`` files are added by the tests themselves."""
    manifests = tuple(map(stored, models))
    blobs = {blob.digest: blob.size for model in models for blob in parsed(model).blobs}
    return Shared(
        path=Path("/store"),
        manifests=manifests,
        strays=tuple(strays),
        right={digest: size for digest, size in blobs.items() if digest not in {*wrong, *gone}},
        wrong={digest: WrongBlob(digest, Identity(1, 1, 1, 1), "corrupt") for digest in wrong},
        replaceable=frozenset(one.path for one in manifests),
    )


def source(*models: Model, without: Sequence[Digest] = ()) -> Scan:
    blobs = {
        blob.digest: SourceBlob(f"sha256-{blob.digest.hex}", blob.size, alone=True)
        for model in models
        for blob in parsed(model).blobs
        if blob.digest not in without
    }
    return Scan(SOURCE, (1, 1), tuple(map(stored, models)), blobs, frozenset(), ())


def planned(folder: Shared, *scans: Scan, wanted: Sequence[Model | str] = ()) -> Plan:
    references = [Reference.parse(one if isinstance(one, str) else one.name) for one in wanted]
    return plan(folder, scans, references, lambda _source, _file: Way.COPY)


def pulls(made: Plan) -> dict[str, str]:
    return {str(pull.reference): pull.why for pull in made.pulls}


def gone(made: Plan) -> list[str]:
    """The models whose manifests go to the quarantine."""
    return [str(one.name) for one in made.manifests]


def adopted(made: Plan) -> list[str]:
    return [str(one.name) for one in made.adoption.models if one.decision is Decision.ADOPT]


def test_where_all_is_well_there_is_nothing_to_do() -> None:
    made = planned(shared(ONE, TWO), source(ONE), wanted=[ONE, TWO])

    assert not made.changes
    assert {str(name) for name in made.served} == {"one:1b", "two:1b"}


def test_what_is_wanted_and_nowhere_is_pulled() -> None:
    assert pulls(planned(Shared(Path("/store")), wanted=[ONE])) == {"one:1b": "missing"}


def test_what_a_source_has_is_adopted_and_not_pulled() -> None:
    made = planned(Shared(Path("/store")), source(ONE), wanted=[ONE])

    assert adopted(made) == ["one:1b"]
    assert not made.pulls


def test_a_pin_to_another_version_than_the_sources_is_pulled() -> None:
    made = planned(Shared(Path("/store")), source(ONE), wanted=[f"one:1b@{NEWER.digest}"])

    assert pulls(made) == {f"one:1b@{NEWER.digest}": "pinned to another version"}


def test_files_that_are_no_blobs_go_to_the_quarantine() -> None:
    partial = Stray(f"sha256-{WEIGHTS.hex}-partial", 5, "partial download")

    assert planned(shared(TWO, strays=[partial])).strays == (partial,)


def test_a_corrupt_blob_that_nobody_names_goes_at_once() -> None:
    stray = Digest.of(b"nobody's")

    (blob,) = planned(shared(TWO, wrong=[stray])).corrupt

    assert (blob.blob.digest, blob.replaced) == (stray, False)


def test_a_wanted_model_with_a_corrupt_blob_stays_in_sight_until_it_is_replaced() -> None:
    made = planned(shared(ONE, wrong=[WEIGHTS]), wanted=[ONE])

    assert pulls(made) == {"one:1b": f"its {WEIGHTS} is corrupt"}
    assert [blob.replaced for blob in made.corrupt] == [True]
    assert not made.manifests
    assert {str(name) for name in made.renewed} == {"one:1b"}


def test_an_unwanted_model_with_a_corrupt_blob_goes_with_it() -> None:
    made = planned(shared(ONE, TWO, wrong=[WEIGHTS]), wanted=[TWO])

    assert gone(made) == ["one:1b"]
    assert [blob.replaced for blob in made.corrupt] == [False]
    assert {str(name) for name in made.served} == {"two:1b"}


def test_a_model_whose_blobs_are_not_there_goes_unless_somebody_brings_them() -> None:
    folder = shared(ONE, gone=[WEIGHTS])

    assert gone(planned(folder)) == ["one:1b"]
    assert gone(planned(folder, wanted=[ONE])) == []
    assert gone(planned(folder, source(ONE))) == []


def test_a_corrupt_blob_is_taken_from_a_source_that_has_it() -> None:
    made = planned(shared(ONE, wrong=[WEIGHTS]), source(ONE), wanted=[ONE])

    assert adopted(made) == ["one:1b"]
    assert not made.pulls
    assert not made.manifests
    assert {str(name) for name in made.renewed} == {"one:1b"}


def test_another_version_in_a_source_takes_the_place_of_one_that_is_corrupt() -> None:
    made = planned(shared(ONE, wrong=[WEIGHTS]), source(NEWER), wanted=[ONE])

    assert gone(made) == ["one:1b"]
    assert adopted(made) == ["one:1b"]
    assert not made.pulls
    assert [blob.replaced for blob in made.corrupt] == [False]


def test_a_whole_version_is_kept_whatever_sources_have() -> None:
    made = planned(shared(ONE), source(NEWER), wanted=[ONE])

    assert not made.changes


def test_an_incomplete_model_of_a_source_is_pulled_if_it_is_wanted() -> None:
    made = planned(Shared(Path("/store")), source(ONE, without=[WEIGHTS]), wanted=[ONE])

    assert not adopted(made)
    assert pulls(made) == {"one:1b": "missing"}


def broken(folder: Shared, *, regular: bool) -> Shared:
    path = "registry.ollama.ai/library/one/1b"
    manifest = SourceManifest(path, ModelName.parse("one:1b"), None, "it is empty")
    return Shared(
        folder.path,
        (*folder.manifests, manifest),
        folder.strays,
        folder.right,
        folder.wrong,
        folder.replaceable | ({path} if regular else set()),
    )


def test_a_broken_manifest_goes_and_its_model_is_pulled() -> None:
    made = planned(broken(shared(TWO), regular=True), wanted=[ONE])

    assert gone(made) == ["one:1b"]
    assert pulls(made) == {"one:1b": "its manifest is broken"}


def test_a_link_where_a_manifest_should_be_stays_and_is_told() -> None:
    made = planned(broken(shared(TWO), regular=False))

    assert not made.manifests
    assert made.stays == ("manifests/registry.ollama.ai/library/one/1b: it is empty",)


def test_a_link_where_a_blob_should_be_takes_its_model_out_of_sight_before_it_goes() -> None:
    link = Stray(f"sha256-{WEIGHTS.hex}", 0, "symbolic link")

    made = planned(shared(ONE, gone=[WEIGHTS], strays=[link]), wanted=[ONE])

    assert gone(made) == ["one:1b"]
    assert list(pulls(made)) == ["one:1b"]


# The servers


def server(**models: Standing) -> ServerView:
    return ServerView("gpu-0", "http://127.0.0.1:1", up=True, version="1", error=None, models={**folded(models)})


def folded(models: Mapping[str, Standing]) -> dict[str, Standing]:
    return {ModelName.parse(f"{name}:1b").folded: standing for name, standing in models.items()}


def on(model: Model, word: str = "served", *, proved: float | None = None, stale: bool = False) -> Standing:
    return Standing(model.digest, word, proved, stale)


def served(model: Model, renewed: float | None = None) -> Served:
    return Served(ModelName.parse(model.name), Digest.parse(model.digest), renewed)


NAME = ModelName.parse("one:1b")


@pytest.mark.parametrize(
    ("standing", "renewed", "expected"),
    [
        (on(ONE, "proved", proved=100.0), None, []),
        (on(ONE), None, [ServerWork("gpu-0", (), (NAME,))]),
        (None, None, [ServerWork("gpu-0", (), (NAME,))]),
        (on(NEWER, "proved", proved=100.0), None, [ServerWork("gpu-0", (), (NAME,))]),
        (on(ONE, "stale", proved=100.0, stale=True), None, [ServerWork("gpu-0", (NAME,), ())]),
        (on(ONE, "proved", proved=100.0), 200.5, [ServerWork("gpu-0", (NAME,), ())]),
        (on(ONE, "proved", proved=200.0), 200.5, []),
        (on(ONE, "loaded"), 200.5, [ServerWork("gpu-0", (NAME,), ())]),
        (on(ONE, "failing"), 200.5, [ServerWork("gpu-0", (NAME,), ())]),
        (on(ONE, "served"), 200.5, [ServerWork("gpu-0", (), (NAME,))]),
    ],
    ids=[
        "proved",
        "only served",
        "not seen yet",
        "another version was proved",
        "old weights in memory",
        "proved before its bytes were replaced",
        "proved since",
        "loaded, perhaps before its bytes were replaced",
        "cannot be shown, and may be loaded all the same",
        "not loaded when its bytes were replaced",
    ],
)
def test_a_server_is_asked_for_what_is_not_proved_yet(
    standing: Standing | None, renewed: float | None, expected: list[ServerWork]
) -> None:
    view = server(one=standing) if standing else server()

    assert list(server_work([view], [served(ONE, renewed)])) == expected


def test_a_proof_of_another_version_is_none() -> None:
    assert not is_proved(on(NEWER, "proved", proved=1.0), served(ONE))
