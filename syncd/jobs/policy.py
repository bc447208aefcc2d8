"""Which models this host takes in (pure): registries, names and sizes that the settings allow.

A deny list goes before an allow list. A name is judged before its manifest is asked for, its size before the first
byte of a blob is. Whoever brings models in calls ``refuse``: pull, adopt, migrate, rollback, import, the reconcile.

A repair does not: what was let in stays until 'syncd rm', and a repair brings the very bytes in again that a published
manifest names, verified by their digest. To leave a model damaged that servers use would help nobody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from syncd.errors import NotAuthorisedError
from syncd.oci.name import ModelName
from syncd.text import size as in_units


class PolicyError(NotAuthorisedError):
    """A rule of the settings does not let a model in. ``rule``: the rule; ``where``: its ``FILE:LINE``, if known."""

    def __init__(self, message: str, rule: str, where: str | None) -> None:
        at = f" at {where}" if where else ""
        super().__init__(f"{message}: {rule}{at}", hint="change that rule in the settings, if the model is to be here")
        self.rule = rule
        self.where = where


@dataclass(frozen=True, slots=True)
class Patterns:
    """A list of the settings: shell patterns, in any case. ``where``: its ``FILE:LINE``, if known."""

    patterns: tuple[str, ...]
    where: str | None = None

    def first(self, texts: Sequence[str]) -> str | None:
        """The first pattern that one of ``texts`` fits."""
        folded = [text.casefold() for text in texts]
        return next((one for one in self.patterns if any(fnmatchcase(text, one.casefold()) for text in folded)), None)


@dataclass(frozen=True, slots=True)
class MaxSize:
    """At most so many bytes of a model's blobs together. ``where``: the rule's ``FILE:LINE``, if known."""

    bytes: int
    where: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """``[policy]`` of the settings. None: no such rule. Registries are hosts; a name fits in full or as it is shown."""

    allow_registries: Patterns | None = None
    deny_registries: Patterns | None = None
    allow_names: Patterns | None = None
    deny_names: Patterns | None = None
    max_size: MaxSize | None = None


NO_POLICY = Policy()
"""Every model may come in."""


def refuse(policy: Policy, name: ModelName, size: int | None) -> None:
    """Raise ``PolicyError`` for a model that is not to be here. ``size``: its bytes; None: not known yet."""
    spellings = (name, *_plainly(name))
    hosts, names = [one.host for one in spellings], [text for one in spellings for text in (one.qualified, str(one))]
    _judge(name, "deny_registries", policy.deny_registries, hosts, allows=False)
    _judge(name, "deny_names", policy.deny_names, names, allows=False)
    _judge(name, "allow_registries", policy.allow_registries, hosts[:1], allows=True)
    _judge(name, "allow_names", policy.allow_names, names[:2], allows=True)
    limit = policy.max_size
    if limit is not None and size is not None and size > limit.bytes:
        rule = f'policy.max_size = "{in_units(limit.bytes)}"'
        raise PolicyError(f"{name} has {in_units(size)}, more than the policy allows", rule, limit.where)


def refusal(policy: Policy, name: ModelName) -> str | None:
    """Why a model of this name is not to be here; None: it may be."""
    try:
        refuse(policy, name, None)
    except PolicyError as error:
        return error.message
    return None


def _plainly(name: ModelName) -> tuple[ModelName, ...]:
    """The name without what its host may be written with as well: a port, and the dot at the end of a DNS name.

    What is denied is denied however it is spelled.
    """
    host = name.host.partition(":")[0].rstrip(".")
    return (replace(name, host=host),) if host != name.host else ()


def _judge(name: ModelName, rule: str, listed: Patterns | None, texts: Sequence[str], *, allows: bool) -> None:
    if listed is None:
        return
    found = listed.first(texts)
    if not allows and found is not None:
        raise PolicyError(f"{name} is refused by the policy", f'policy.{rule} has "{found}"', listed.where)
    if allows and found is None:
        raise PolicyError(f"{name} is refused by the policy", f"policy.{rule} has no pattern for it", listed.where)
