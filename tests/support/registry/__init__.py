"""The scriptable registry: a real HTTP server on real loopback sockets that can be told what goes wrong."""

from tests.support.registry.answers import Kind, Origin, Request
from tests.support.registry.faults import Rule
from tests.support.registry.scripted import ModelHandle, ScriptedRegistry

__all__ = ["Kind", "ModelHandle", "Origin", "Request", "Rule", "ScriptedRegistry"]
