"""What ``syncd doctor`` can find around a store: at servers, on the host, in the settings."""

from syncd.jobs.doctor_kind import Area, Kind, Severity

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

SERVER_WRITES = Kind(
    "server-can-write",
    Area.SERVERS,
    _E,
    "a server's container that can write to the store",
    "its 'ollama rm' and its pulls take and overwrite what the other servers use",
    "mount the store with ':ro' there",
)
SERVER_PRUNES = Kind(
    "server-prunes",
    Area.SERVERS,
    _W,
    "a server's container without OLLAMA_NOPRUNE=1",
    "when it starts it deletes every blob that no manifest names yet, or fails to where it cannot write",
    "set OLLAMA_NOPRUNE=1 there",
)
SERVER_ELSEWHERE = Kind(
    "server-sees-another-folder",
    Area.SERVERS,
    _E,
    "a server that serves another folder than this store",
    "what is published here never appears there",
    "mount the store there, read-only, and point OLLAMA_MODELS at it",
)
SERVER_LACKS = Kind(
    "server-lacks-models",
    Area.SERVERS,
    _W,
    "a server that does not list what is published",
    "whoever asks it for that model is told that there is none",
    "look at modes and links in the store (above), and at the server's log",
)
SERVER_OLD = Kind(
    "server-too-old",
    Area.SERVERS,
    _W,
    "a server older than a model requires",
    "it lists the model, and may not be able to load it",
    "update that server",
)
SERVERS_DIFFER = Kind(
    "server-versions-differ",
    Area.SERVERS,
    _N,
    "servers of different versions",
    "a model that a new one loads may be too new for an old one",
    "run the same version on all of them",
)
SERVER_DOWN = Kind(
    "server-down",
    Area.SERVERS,
    _W,
    "a server that does not answer",
    "nothing can be said of it",
    "look at its log; 'syncd status' shows since when",
)
ENGINE = Kind(
    "engine-unreachable",
    Area.SERVERS,
    _W,
    "a Docker Engine that does not answer",
    "how the containers see the store is not known, and servers are not restarted through it",
    "see [docker] url; the user of syncd must be allowed to use its socket",
)
CONTAINER_GONE = Kind(
    "container-missing",
    Area.SERVERS,
    _W,
    "a container that the settings name and the Engine does not know",
    "its server cannot be restarted, and how it sees the store is not known",
    "correct 'container' at that instance, or start it",
)
SOCKET = Kind(
    "open-socket",
    Area.HOST,
    _E,
    "a control socket, or its folder, that every user can write to",
    "whoever may speak to the daemon may remove models; in a folder that others write to, they put a socket of their"
    " own in its place",
    "the socket is to be 0660 and its folder 0750: restart the daemon, which sets the first, and 'chmod' the second",
)
CLOCK = Kind(
    "clock-off",
    Area.HOST,
    _W,
    "a clock that is far from the registry's",
    "certificates and signed addresses are good for minutes by the clock, and history and schedules go by it",
    "set the clock: 'timedatectl set-ntp true'",
)
NOT_RUNNING = Kind(
    "daemon-not-running",
    Area.HOST,
    _W,
    "a daemon that is installed and does not run",
    "nothing keeps the models current, repairs them or looks at the servers",
    "'systemctl status syncd' says why; 'systemctl start syncd'",
)
UNIT_STORE = Kind(
    "unit-of-another-store",
    Area.HOST,
    _W,
    "a systemd unit that may not write to this store",
    "ProtectSystem=strict leaves the daemon nothing but the folders that the unit names",
    "'systemctl edit syncd': ReadWritePaths= and RequiresMountsFor= with the store's folder",
)
SECRET = Kind(
    "secret-readable",
    Area.SETTINGS,
    _N,
    "a file with a secret that every user can read",
    "whoever reads it can speak to the registry, or to the daemon, in your name",
    "'chmod 600' it",
)
PLAIN_HTTP = Kind(
    "plain-http",
    Area.SETTINGS,
    _N,
    "a registry or mirror without TLS",
    "blobs are verified whatever brings them; manifests are not, and whoever is in between can put other models under"
    " a tag",
    "use https, or pin the models",
)
NO_SERVERS = Kind(
    "no-servers",
    Area.SETTINGS,
    _N,
    "settings without servers",
    "syncd can tell what is published, and not what is served",
    "name them as [[instances]], or have them found by [docker] discover",
)

KINDS = tuple(one for one in list(globals().values()) if isinstance(one, Kind))
"""All of them, in the order in which they are shown."""
