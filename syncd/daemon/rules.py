"""The settings, as jobs see them."""

from syncd.daemon.loaded import Loaded
from syncd.daemon.surroundings import surroundings_of
from syncd.jobs.collection import CollectRules
from syncd.jobs.policy import MaxSize, Patterns, Policy
from syncd.jobs.rules import KnownServers, Rules


def rules_of(loaded: Loaded) -> Rules:
    """The part of the settings that jobs go by."""
    settings = loaded.settings
    wanted = tuple(model.name for model in settings.models)
    return Rules(
        floor=settings.min_free,
        policy=policy_of(loaded),
        wanted=wanted,
        collect=CollectRules(
            keep_previous=settings.collect.keep_previous,
            quarantine_age=settings.collect.quarantine_age,
            wanted=wanted,
        ),
        servers=KnownServers(
            instances=tuple(one.instance() for one in settings.instances),
            discovered=settings.docker.discover,
            patience=settings.probes.timeout,
        ),
        around=surroundings_of(loaded),
        keep_unrepairable=settings.scrub.unrepairable == "keep",
    )


def policy_of(loaded: Loaded) -> Policy:
    """Which models may come in, and which line says so."""
    said = loaded.settings.policy

    def listed(key: str, patterns: tuple[str, ...] | None) -> Patterns | None:
        return None if patterns is None else Patterns(patterns, loaded.origin(("policy", key)))

    return Policy(
        allow_registries=listed("allow_registries", said.allow_registries),
        deny_registries=listed("deny_registries", said.deny_registries),
        allow_names=listed("allow_names", said.allow_names),
        deny_names=listed("deny_names", said.deny_names),
        max_size=None if said.max_size is None else MaxSize(said.max_size, loaded.origin(("policy", "max_size"))),
    )
