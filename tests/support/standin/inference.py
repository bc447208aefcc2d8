"""Generate, chat and embed: the blob's path is resolved first, then a runner is waited for, then tokens come."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from aiohttp import web

from tests.support.standin.calls import Call, Refused, answer, now
from tests.support.standin.catalogue import Catalogue
from tests.support.standin.described import Model
from tests.support.standin.scheduler import LoadError, Runner, Scheduler
from tests.support.standin.settings import Settings

Frame = Callable[[str], dict[str, Any]]
"""A token as the call's answer carries it."""

_TOKENS = 8  # of an answer that nobody limits
_HEX_PER_TOKEN = 8
_WIDTH = 8  # of an embedding


class Inference:
    """The handlers of what needs a model. Tokens spell the SHA-256 of the weights that made them, 8 digits each."""

    def __init__(self, settings: Settings, catalogue: Catalogue, scheduler: Scheduler) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._scheduler = scheduler

    async def generate(self, call: Call) -> web.StreamResponse:
        model = self._model(call, listing_fails=Refused(404, f"model '{call.model}' not found"))
        _refuse_remote(model)
        has_prompt = bool(call.body.get("prompt"))
        ending = {"response": ""}
        if not has_prompt and call.keep_alive == 0:
            self._scheduler.expire(model)
            return answer(_done(call, ending, "unload"))
        _require(model, "completion", f'"{call.model}" does not support generate')
        async with self._runner(call, model) as runner:
            if not has_prompt:
                return answer(_done(call, ending, "load"))
            return await self._answer(call, runner, lambda token: {"response": token})

    async def chat(self, call: Call) -> web.StreamResponse:
        if not call.model:
            raise Refused(400, "model is required")
        model = self._model(call, listing_fails=Refused(400, "model is required"))
        has_messages = bool(call.body.get("messages"))
        ending = {"message": {"role": "assistant", "content": ""}}
        if not has_messages and call.keep_alive == 0:
            self._scheduler.expire(model)
            return answer(_done(call, ending, "unload"))
        _refuse_remote(model)
        _require(model, "completion", f'"{call.model}" does not support chat')
        async with self._runner(call, model) as runner:
            if not has_messages:
                return answer(_done(call, ending, "load"))
            return await self._answer(call, runner, lambda token: {"message": {"role": "assistant", "content": token}})

    async def embed(self, call: Call) -> web.StreamResponse:
        given = call.body.get("input")
        texts = [given] if isinstance(given, str) and given else given or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        model = self._embedder(call)
        async with self._runner(call, model) as runner:
            await asyncio.sleep(self._settings.token_seconds)
            vectors = [] if call.is_to_be_empty else [_vector(runner.contents, text) for text in texts]
            return answer({"model": call.model, "embeddings": vectors, **_metrics(len(texts))})

    def _model(self, call: Call, listing_fails: Refused) -> Model:
        missing = Refused(404, f"model '{call.model}' not found")
        if not call.model:
            raise missing
        name = self._catalogue.existing(call.name, failing=listing_fails)
        try:
            return self._catalogue.model(name)
        except FileNotFoundError as error:
            raise missing from error
        except (OSError, ValueError, KeyError) as error:
            raise Refused(500, str(error)) from error

    def _embedder(self, call: Call) -> Model:
        listing_fails = Refused(404, f"model '{call.model}' not found")
        if not call.model:
            raise listing_fails
        name = self._catalogue.existing(call.name, failing=listing_fails)
        try:
            return self._catalogue.model(name)
        except FileNotFoundError as error:
            raise Refused(404, f'model "{call.model}" not found, try pulling it first') from error
        except (OSError, ValueError, KeyError) as error:
            raise Refused(500, str(error)) from error

    @contextlib.asynccontextmanager
    async def _runner(self, call: Call, model: Model) -> AsyncIterator[Runner]:
        try:
            async with self._scheduler.runner(model, call.options, call.keep_alive) as runner:
                yield runner
        except FileNotFoundError as error:
            raise Refused(404, f'model "{call.model}" not found, try pulling it first') from error
        except (LoadError, OSError) as error:
            raise Refused(500, str(error)) from error

    async def _answer(self, call: Call, runner: Runner, frame: Frame) -> web.StreamResponse:
        limit = int(call.options.get("num_predict") or 0)
        count = min(limit, _TOKENS) if limit > 0 else _TOKENS
        tokens = [] if call.is_to_be_empty else _tokens(runner.contents)[:count]
        reason = "length" if 0 < limit < _TOKENS else "stop"
        if call.streams:
            return await call.stream(self._lines(call, tokens, frame, reason))
        await asyncio.sleep(self._settings.token_seconds * len(tokens))
        return answer(_done(call, frame("".join(tokens)), reason, len(tokens)))

    async def _lines(
        self, call: Call, tokens: list[str], frame: Frame, reason: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        for token in tokens:
            await asyncio.sleep(self._settings.token_seconds)
            yield {"model": call.model, "created_at": now(), **frame(token), "done": False}
        yield _done(call, frame(""), reason, len(tokens))


def _refuse_remote(model: Model) -> None:
    """A stub's request would go to the host it stands for; nothing here may call out."""
    if model.remote is not None:
        raise Refused(400, "this server cannot run this remote model")


def _require(model: Model, capability: str, error: str) -> None:
    if capability not in model.capabilities:
        raise Refused(400, error)


def _done(call: Call, frame: Mapping[str, Any], reason: str, tokens: int = 0) -> dict[str, Any]:
    ending = {"model": call.model, "created_at": now(), **frame, "done": True, "done_reason": reason}
    return {**ending, **_metrics(tokens)} if tokens else ending


def _metrics(tokens: int) -> dict[str, int]:
    return {"total_duration": 1_000_000, "load_duration": 1000, "prompt_eval_count": 1, "eval_count": tokens}


def _tokens(contents: str) -> list[str]:
    return [contents[start : start + _HEX_PER_TOKEN] for start in range(0, len(contents), _HEX_PER_TOKEN)]


def _vector(contents: str, text: str) -> list[float]:
    """Numbers that follow from the weights and the text."""
    seed = [int(contents[2 * index : 2 * index + 2], 16) + len(text) + 1 for index in range(_WIDTH)]
    length = sum(number * number for number in seed) ** 0.5
    return [number / length for number in seed]
