"""What ``syncd doctor`` can find in a store: each kind with why it matters and what to do (docs/doctor.md has all)."""

from syncd.jobs.doctor_kind import Area, Kind, Severity

_QUARANTINED = "moves it to .syncd/quarantine"
_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

STRAY_FILE = Kind(
    "stray-file",
    Area.MODELS,
    _E,
    "a file in manifests/ or blobs/ that belongs to no model",
    "Ollama takes every file four levels down for a model, and one that it cannot parse keeps it from starting cleanly",
    "'syncd doctor --fix' moves it to .syncd/quarantine; move it back from there to wherever it is needed",
    _QUARANTINED,
)
STRAY_FOLDER = Kind(
    "stray-folder",
    Area.MODELS,
    _E,
    "a folder in blobs/, or below a model's folder in manifests/",
    "a server walks it when it starts, and stops at the first thing in it that it cannot rename",
    "'syncd doctor --fix' moves it to .syncd/quarantine with all that is in it",
    _QUARANTINED,
)
EMPTY_FOLDER = Kind(
    "empty-folder",
    Area.MODELS,
    _W,
    "an empty folder in manifests/",
    "a server that mounts the store read-only fails when it starts and cannot remove it",
    "'syncd doctor --fix' removes it",
    "removes it",
)
UNFINISHED = Kind(
    "unfinished-file",
    Area.MODELS,
    _W,
    "what an Ollama left of a pull or an import that has not ended",
    "it takes space that no model has, and somebody else than syncd pulls into this store",
    "have that Ollama not pull: mount the store read-only there. An hour after its last byte 'syncd doctor --fix' moves"
    " it to .syncd/quarantine",
    f"{_QUARANTINED}, an hour after it was last written to",
)
SPECIAL_FILE = Kind(
    "special-file",
    Area.MODELS,
    _E,
    "a FIFO, a socket or a device in manifests/ or blobs/",
    "whoever opens it may hang, and every listing of the models with it",
    "'syncd doctor --fix' moves it to .syncd/quarantine",
    _QUARANTINED,
)
DEAD_LINK = Kind(
    "dead-link",
    Area.MODELS,
    _E,
    "a symbolic link in manifests/ or blobs/ that leads nowhere",
    "a link among the manifests that leads nowhere makes every listing of the models fail",
    "'syncd doctor --fix' moves it to .syncd/quarantine",
    _QUARANTINED,
)
LINK = Kind(
    "link",
    Area.MODELS,
    _E,
    "a symbolic link in manifests/ or blobs/",
    "containers see other things at its end than this host or nothing at all, and syncd follows none: its model counts"
    " as broken",
    "put a copy of what it leads to in its place, or remove it and 'syncd pull' the model",
)
COLON = Kind(
    "colon-in-name",
    Area.MODELS,
    _E,
    "a blob with a colon in its name (sha256:HEX)",
    "a server that mounts the store read-only cannot rename it and does not start",
    "'syncd doctor --fix' hashes it and gives it its right name, or moves it to .syncd/quarantine",
    "renames it to sha256-HEX if its bytes are right and that name is free; else moves it to .syncd/quarantine",
)
EMPTY_MANIFEST = Kind(
    "empty-manifest",
    Area.MODELS,
    _E,
    "a manifest without a byte",
    "its model cannot be used, nothing is pruned or collected while it is there, and a power cut often leaves such",
    "'syncd doctor --fix' puts back what was published last; else 'syncd pull NAME' brings the model again",
    "puts back the last version whose bytes are here; without one, moves it to .syncd/quarantine",
)
BROKEN_MANIFEST = Kind(
    "broken-manifest",
    Area.MODELS,
    _E,
    "a manifest that cannot be parsed",
    "its model cannot be used, and nothing is pruned or collected while it is there: nobody knows what it names",
    "'syncd doctor --fix' puts back what was published last; else 'syncd pull NAME' brings the model again",
    "puts back the last version whose bytes are here; without one, moves it to .syncd/quarantine",
)
MANIFEST_LIST = Kind(
    "manifest-list",
    Area.MODELS,
    _W,
    "a tag that holds a list of manifests (an OCI image index), and no model",
    "neither Ollama nor syncd serves these, and nothing is pruned or collected while it is there: what it names may be"
    " wanted by whoever put it there",
    "ask whoever put it there; 'syncd rm NAME' takes it away, and the models that it lists have tags of their own",
)
NOT_READABLE = Kind(
    "not-readable",
    Area.MODELS,
    _E,
    "a file or folder of a model that other users cannot read",
    "containers run as other users than the store's owner: they list the model, or not, and cannot load it",
    "'syncd doctor --fix' sets the mode: folders 0755, manifests 0644, blobs 0444",
    "sets its mode",
)
WRITABLE = Kind(
    "writable-by-others",
    Area.MODELS,
    _W,
    "a file or folder of a model that other users can write to",
    "whoever writes there changes what every server loads, and nobody notices until the next scrub",
    "'syncd doctor --fix' sets the mode: folders 0755, manifests 0644, blobs 0444",
    "sets its mode",
)
CASE = Kind(
    "case-conflict",
    Area.MODELS,
    _E,
    "two stored names with a part that differs in case only",
    "Ollama looks each part up among all names without regard to case and takes now the one, now the other spelling:"
    " about every other request for such a model fails",
    "remove one of them with 'syncd rm', and pull it again spelled like the other",
)
MISSING_BLOB = Kind(
    "missing-blob",
    Area.MODELS,
    _E,
    "a published model without one of its blobs",
    "servers list the model and fail to load it",
    "'syncd doctor --fix' or 'syncd verify --repair' brings it back; 'syncd rm NAME' removes the model",
    "puts it back from what syncd keeps, else fetches it; what nobody has any more stays as it is",
)
DAMAGED_BLOB = Kind(
    "damaged-blob",
    Area.MODELS,
    _E,
    "a blob that is known to be wrong",
    "servers load it all the same, and answer with nonsense or crash",
    "'syncd doctor --fix' or 'syncd verify --repair' mends it; look after the disk and the memory, too",
    "fetches what is wrong of it; what nobody has any more stays as it is",
)
FOREIGN_FILE = Kind(
    "foreign-owner",
    Area.STORE,
    _W,
    "files in the store that belong to another user",
    "two users share the store: each may be unable to repair or remove what the other wrote, and a record of one's own"
    " says nothing of a file that another may change",
    "'sudo syncd init --owner USER' gives all of it to one user; let servers mount it read-only",
)
SHARED_STORE = Kind(
    "shared-store",
    Area.STORE,
    _E,
    "the store's folders belong to different users",
    "no user can publish, repair and remove in it: one writes the manifests and another one the blobs",
    "'sudo syncd init --owner USER' gives all of it to one user",
)
CLOSED_STORE = Kind(
    "closed-store",
    Area.STORE,
    _W,
    "the store's own folder is closed to other users",
    "servers that run as other users cannot enter it; a container that mounts it is such a one unless it is root",
    "'chmod 755' it, unless every server runs as its owner or as root",
)
OTHER_MOUNT = Kind(
    "other-mount",
    Area.STORE,
    _E,
    "a part of the store on another mount than the rest",
    "what is whole and verified is renamed into place, and no rename crosses a mount, not even between two bind mounts"
    " of one file system: nothing can be published",
    "mount the folder above manifests/, blobs/ and .syncd, once",
)
WEAK_LOCKS = Kind(
    "locks-do-not-exclude",
    Area.STORE,
    _E,
    "a file system that grants one lock to two holders",
    "two processes would write over each other's downloads, and a collection take what a pull needs",
    "move the store to a local file system; on Lustre, mount with '-o flock'",
)
NETWORK = Kind(
    "network-file-system",
    Area.STORE,
    _W,
    "a store on a network file system",
    "locks prove nothing between hosts: another host that runs syncd or Ollama on it is not kept out",
    "let no other host write to it, or use a local disk",
)
INCAPABLE = Kind(
    "file-system-lacks",
    Area.STORE,
    _E,
    "a file system that cannot do what publishing needs",
    "models are published by fsync, link and rename: without them nothing is whole or durable",
    "move the store to a local file system such as ext4 or xfs; if it is full or read-only, mend that",
)
NO_RESERVE = Kind(
    "no-preallocation",
    Area.STORE,
    _N,
    "a file system that cannot reserve space",
    "a disk that fills up shows in the middle of a download and not before it",
    "nothing, where there is room enough; else ext4 or xfs",
)
LITTLE_SPACE = Kind(
    "little-space",
    Area.STORE,
    _W,
    "less free space than an update of the largest model takes, and min_free",
    "an update needs room for the new weights while the old ones still serve: the next one may be refused",
    "'syncd gc --dry-run' shows what could go; 'syncd rm NAME', or a larger disk",
)
QUARANTINE = Kind(
    "quarantine",
    Area.STORE,
    _N,
    "things in quarantine",
    "they were taken out of sight and not deleted; they take space until a collection finds them old enough",
    "look at them in .syncd/quarantine, and take out what is needed; 'syncd gc' removes them in time",
)
PARTIALS = Kind(
    "interrupted-pulls",
    Area.STORE,
    _N,
    "what interrupted pulls have fetched",
    "the next pull of the same model goes on from it; it takes space until then",
    "'syncd pull NAME' resumes; 'syncd gc' gives it back in time",
)
LEASES = Kind(
    "expired-leases",
    Area.STORE,
    _N,
    "leases that keep nothing any more",
    "they are left by pulls that died long ago, and do no harm",
    "'syncd gc' removes them",
)
TRASH = Kind(
    "trash",
    Area.STORE,
    _N,
    "trash that a collection left",
    "a collection was interrupted before it gave the space back",
    "'syncd gc' empties it",
)
PINS = Kind(
    "pin-conflict",
    Area.STORE,
    _W,
    "a model held at one version and pinned by the settings to another",
    "each wants the tag for itself: the settings' version is not applied while the other one is held",
    "'syncd unpin NAME' releases it, or change the pin in the settings",
)
NO_SCRUB = Kind(
    "scrub-overdue",
    Area.STORE,
    _W,
    "a scrub that is overdue",
    "rot is found by reading everything over, and by nothing else: mtime and size stay as they are",
    "'syncd scrub' does it now; a daemon does it by [scrub] every",
)
NEVER_SCRUBBED = Kind(
    "never-scrubbed",
    Area.STORE,
    _N,
    "a store that was never read over",
    "rot is found by reading everything over, and by nothing else",
    "set [scrub] every, or run 'syncd scrub' now and then",
)

KINDS = tuple(one for one in list(globals().values()) if isinstance(one, Kind))
"""All of them, in the order in which they are shown."""
