"""Models of another store on the same disk: moved and copied, beside how long ``openssl`` takes to hash them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import GIB, Goal, Sample, Section, size_text
from benchmarks.world import Model, World

_GOAL = 1.25  # times as long as openssl; the start of the interpreter included


def measure(world: World) -> Iterator[Section]:
    """Each round: a source made anew, then openssl over its blob, then adopt with and without ``--delete-source``."""
    world.require(2 * world.size)
    openssl: list[float] = []
    moved: list[float] = []
    copied: list[float] = []
    with world.model("big", world.size) as model:
        for number in range(world.rounds):
            with world.fresh("source") as source:
                weights = _lay(source, model)
                openssl.append(world.timed(("openssl", "sha256", str(weights))))
                with world.fresh("target") as store:
                    copied.append(world.timed(world.syncd("adopt", source, "--store", store)))
                with world.fresh("target") as store:
                    moved.append(world.timed(world.syncd("adopt", "--delete-source", source, "--store", store)))
                    if weights.exists():
                        weights.unlink()
            world.say(
                f"round {number}: openssl {openssl[-1]:.2f} s, moved {moved[-1]:.2f} s, copied {copied[-1]:.2f} s"
            )
    yield _section(world, Sample(tuple(openssl)), Sample(tuple(moved)), Sample(tuple(copied)))


def _lay(source: Path, model: Model) -> Path:
    """Put the model where an Ollama would, its weights as a file of their own; their path."""
    tag = source / "manifests/registry.ollama.ai/library" / model.name / "latest"
    tag.parent.mkdir(parents=True)
    tag.write_bytes(model.manifest)
    (source / "blobs").mkdir()
    for hex_digest, file in model.files.items():
        shutil.copyfile(file, source / "blobs" / f"sha256-{hex_digest}")
    return source / "blobs" / f"sha256-{model.weights.hex}"


def _section(world: World, openssl: Sample, moved: Sample, copied: Sample) -> Section:
    ratio = moved.median / openssl.median
    rows = [
        (what, sample.spread("s"), f"{world.size / sample.median / GIB:.2f}", f"{sample.median / openssl.median:.2f}")
        for what, sample in (
            ("openssl sha256 FILE", openssl),
            ("syncd adopt --delete-source", moved),
            ("syncd adopt", copied),
        )
    ]
    return Section(
        title=f"Adopting a store of {size_text(world.size)}",
        goals=[
            Goal(
                f"`--delete-source` takes at most {_GOAL} times as long as `openssl sha256` over the same file",
                f"{ratio:.2f}",
                ratio <= _GOAL,
            )
        ],
        columns=("what", "seconds", "GiB/s", "times openssl"),
        rows=rows,
        notes=(
            "Over the whole process's wall time.",
            "Moved: the file gets another name and is hashed, SHA-256 in one thread and BLAKE3 in another.",
            "Copied: it is written and read back as well. A file system with reflinks would spare the writing.",
        ),
    )
