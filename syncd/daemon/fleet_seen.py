"""What has been seen of one server: its last look, each model's probes, and which of its lives it is in (pure).

Times are seconds on the monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from syncd.instances.model import Instance
from syncd.instances.ollama import Loaded, Reason
from syncd.instances.plan import NEVER, Untouched, left_behind, started_anew, still_untouched
from syncd.instances.probe import NOTHING, Cell, Known, Look, Proof, Published, Row, Showing, WeightsOf, judge
from syncd.jobs.collection import Memories
from syncd.jobs.memories import of as memories_of
from syncd.oci.digest import Digest
from syncd.oci.name import ModelName

_MAY_START = 600.0  # seconds for which a server that has just gone down is expected back


class Seen:
    """Of one server. ``look``: the last one, None: there was none yet. ``life``: goes up with every start of it."""

    def __init__(self) -> None:
        self.look: Look | None = None
        self.life = 1
        self.untouched: Untouched = frozenset()
        self._known: dict[str, Known] = {}
        self._tried: dict[str, tuple[str, int, float]] = {}
        self._held: tuple[Loaded, ...] = ()  # in its memory, as of the last look that told
        self._down_since: float | None = None

    # What is known

    @property
    def known(self) -> Mapping[str, Known]:
        """What is known of each model, by its folded name."""
        return self._known

    def of(self, name: ModelName) -> Known:
        """What is known of one."""
        return self._known.get(name.folded, NOTHING)

    def row(self, instance: Instance, models: Iterable[Published], weights_of: WeightsOf) -> Row:
        """How every model stands on it."""
        look = self.look
        return Row(
            instance=instance,
            up=None if look is None else look.version is not None,
            version=look.version if look else None,
            fault=look.fault if look else None,
            life=self.life,
            cells=tuple(self.cell(model, weights_of) for model in models),
        )

    def cell(self, model: Published, weights_of: WeightsOf) -> Cell:
        """How one model stands on it."""
        return judge(model, self.look, self.of(model.name), life=self.life, weights_of=weights_of)

    def loaded(self) -> frozenset[Digest]:
        """The manifests under which something is in its memory, as of the last look that told."""
        return self._memories("").loaded

    def unsettled(self, server: str, now: float) -> str | None:
        """Why nobody knows what it has in its memory, or will have in a moment, in words; None: that is known."""
        look = self.look
        if look is None:
            return f"nobody has looked yet at what {server} has loaded"
        if look.fault is None:
            return next(iter(self._memories(server).doubts), None)
        if look.fault.reason is not Reason.REFUSED:
            return f"nobody knows what {server} has loaded: {look.fault.message}"
        if self._down_since is None or now - self._down_since < _MAY_START:
            return f"{server} has just gone down, or is about to start"
        return None

    def _memories(self, server: str) -> Memories:
        return memories_of(server, (one.digest for one in self._held))

    def was_tried(self, model: Published, *, since: float) -> bool:
        """Whether a proof of this version was tried in this life, after ``since``."""
        digest, life, at = self._tried.get(model.name.folded, ("", 0, 0.0))
        return (digest, life) == (model.digest, self.life) and at > since

    # What comes in

    def take_in(self, look: Look, wanted: Iterable[Published], *, dropped: bool) -> str | None:
        """A new look, and the models that anybody wants to know of; by what it tells that it started anew, if so.

        ``dropped``: it had closed the connection.
        """
        before, self.look = self.look, look
        self._remember(look)
        anew = None
        if started_anew(before, look, dropped=dropped):
            self.begin_life()
            anew = "the connection was dropped" if look.fault is None else "it does not answer"
        self.untouched = still_untouched(self.untouched, look)
        names = {model.name.folded for model in wanted}
        self._known = {key: known for key, known in self._known.items() if key in names}
        self._tried = {key: tried for key, tried in self._tried.items() if key in names}
        return anew

    def _remember(self, look: Look) -> None:
        if look.fault is None:
            self._held, self._down_since = look.loaded, None
        elif look.fault.reason is not Reason.REFUSED:
            self._down_since = None  # it hangs: what it had loaded it may have still
        else:
            self._held = ()
            self._down_since = look.at if self._down_since is None else self._down_since

    def begin_life(self) -> None:
        """It is, or will be, another process: no proof of before holds."""
        self.life += 1

    def outdate(self) -> None:
        """The last look tells nothing of now."""
        self.look = None if self.look is None else replace(self.look, at=-NEVER)

    def show(self, name: ModelName, showing: Showing) -> None:
        """It was asked to show a model."""
        self._known[name.folded] = replace(self.of(name), showing=showing)

    def load(self, name: ModelName, *, now: bool) -> None:
        """Somebody asked it to load a model, or has its answer."""
        self._known[name.folded] = replace(self.of(name), loading=now)

    def attempt(self, model: Published, at: float) -> None:
        """A proof of a model is tried."""
        self._tried[model.name.folded] = (model.digest, self.life, at)

    def prove(self, model: Published, proof: Proof, before: Look, after: Look) -> None:
        """A proof has ended. ``before``, ``after``: what was loaded then, which tells what it left in memory."""
        self._known[model.name.folded] = replace(self.of(model.name), proof=proof)
        self.untouched |= left_behind(model, before, after)

    def forget(self, name: ModelName) -> None:
        """The model's bytes are others than those of which anything was seen."""
        self._known[name.folded] = replace(self.of(name), showing=None, proof=None)
        self._tried.pop(name.folded, None)
