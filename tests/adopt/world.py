"""Other programs' stores, laid out as Ollama does it, and adoptions of them."""

import hashlib
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from syncd.errors import SyncdError
from syncd.jobs import adoption
from syncd.jobs.adopt import Adopted, AdoptMeans, adopt, chosen, sweep
from syncd.jobs.adoption import Candidate, Plan
from syncd.jobs.progress import PullProgress
from syncd.oci.name import ModelName
from syncd.store.hands import SourceDesk
from syncd.store.root import Store
from syncd.store.source import SourceStore
from tests.support.content import whole
from tests.support.models import Model

Ending = Adopted | SyncdError


def lay(folder: Path, *models: Model) -> Path:
    """Put these models where an Ollama would; the folder, for short."""
    (folder / "blobs").mkdir(parents=True, exist_ok=True)
    for model in models:
        tag = tag_file(folder, model.name)
        tag.parent.mkdir(parents=True, exist_ok=True)
        tag.write_bytes(model.manifest)
        for digest, content in model.blobs.items():
            blob_file(folder, digest).write_bytes(whole(content))
    return folder


def tag_file(folder: Path, name: str) -> Path:
    return folder.joinpath("manifests", *ModelName.parse(name).parts)


def blob_file(folder: Path, digest: str) -> Path:
    return folder / "blobs" / digest.replace(":", "-")


def photograph(folder: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """All that a folder holds: path -> mode, owner, links, mtime (ns), SHA-256 or target."""
    seen = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        found = path.lstat()
        content = ""
        if stat.S_ISREG(found.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(found.st_mode):
            content = str(path.readlink())
        seen[str(path)] = (found.st_mode, found.st_uid, found.st_nlink, found.st_mtime_ns, content)
    return seen


def planned(store: Store, desk: SourceDesk, sources: Sequence[SourceStore], *, delete: bool) -> Plan:
    """What adopting these would do."""
    scans = tuple(source.scan() for source in sources)
    return adoption.plan(scans, adoption.look(store, scans), chosen(store, desk, scans, delete=delete))


def unseen(_progress: PullProgress) -> None:
    """Nobody looks."""


async def adopted(
    store: Store,
    *folders: Path,
    delete: bool = False,
    floor: int = 0,
    report: Callable[[PullProgress], None] = unseen,
) -> Mapping[str, Ending]:
    """Adopt all that these folders have; what came of each model that the plan takes, by name."""
    endings: dict[str, Ending] = {}
    with ExitStack() as stack:
        sources = [stack.enter_context(SourceStore.open(folder)) for folder in folders]
        desk = SourceDesk.own(sources)
        means = AdoptMeans(store=store, desk=desk, floor=floor, delete=delete)
        plan = planned(store, desk, sources, delete=delete)
        spoilt: set[Candidate] = set()
        for model in plan.models:
            if model.name is None or not model.wanted:
                continue
            try:
                endings[str(model.name)] = await adopt(model, plan, means, report, spoilt)
            except SyncdError as error:
                endings[str(model.name)] = error
        if delete:
            sweep(plan, means)
    return endings
