"""Running the sandbox: as a command that serves until it is told to stop, or in a thread of this process."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError

from builders.sandbox.server import App, SandboxConfig
from schemas.errors import InputError
from schemas.read_yaml import read_yaml

_GRACE = 0.5
"""Seconds that replies in the making get when the server is stopped."""

Item = TypeVar("Item", bound=BaseModel)


def load_list(path: str | Path, item: type[Item]) -> tuple[Item, ...]:
    """Read a YAML file that holds a list of `Fault` or `SandboxTeacher`.

    Raises:
        InputError: the file cannot be read, is no YAML, or an entry is not what it must be.
    """
    content = read_yaml(Path(path))
    try:
        return tuple(TypeAdapter(list[item]).validate_python(content or []))  # type: ignore[valid-type]
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """The first complaint of pydantic in one line: ``entry 2, share: Input should be ...``."""
    first = error.errors(include_url=False)[0]
    where = ", ".join(f"entry {part + 1}" if isinstance(part, int) else part for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


@dataclass
class _Listening:
    """A server that accepts connections, until `close`."""

    app: App
    url: str
    sockets: asyncio.Server
    handler: web.Server

    async def close(self) -> None:
        """Refuse new connections and end the open ones; at once if the server died."""
        # Stop accepting, then let the loop turn until what was accepted has reached the handler: asyncio leaks the
        # socket of a connection that it sets up after its server was closed (python/cpython#109564).
        for listener in self.sockets.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for task in self.app.batches.tasks:
            task.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        self.sockets.close()
        await self.handler.shutdown(0 if self.app.died.is_set() else _GRACE)


async def _listen(config: SandboxConfig) -> _Listening:
    app = App(config)
    handler = web.Server(app.handle, access_log=None)
    try:
        sockets = await asyncio.get_running_loop().create_server(handler, config.host, config.port, backlog=1024)
    except OSError as error:
        raise InputError(
            f"the sandbox cannot listen on {config.host} port {config.port} ({error.strerror}): "
            "choose another port, or 0 for any free one"
        ) from error
    port = sockets.sockets[0].getsockname()[1]
    return _Listening(app, f"http://{config.host}:{port}/v1", sockets, handler)


async def _until_stopped(listening: _Listening, stop: asyncio.Event) -> None:
    """Serve until ``stop`` or the death of the server, then close."""
    waits = [asyncio.ensure_future(event.wait()) for event in (stop, listening.app.died)]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await listening.close()


def serve(config: SandboxConfig) -> int:
    """Serve until SIGTERM or Ctrl-C; print one line with the URL and the models when ready.

    Returns:
        The exit code: 0 after a signal, 1 after a `Fault` of kind ``death`` struck the whole server.

    Raises:
        InputError: the port cannot be had.
    """
    return asyncio.run(_serve(config))


async def _serve(config: SandboxConfig) -> int:
    listening = await _listen(config)
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    models = " ".join(teacher.model for teacher in config.teachers)
    sys.stdout.write(f"sandbox at {listening.url} serving {models}\n")
    sys.stdout.flush()
    await _until_stopped(listening, stop)
    return 1 if listening.app.died.is_set() else 0


class SandboxServer:
    """A sandbox server in a thread of this process, for tests and notebooks.

    Takes the fields of `SandboxConfig`::

        with SandboxServer(faults=[Fault(kind="rate_limit", share=0.1)], seed=0) as sandbox:
            client = openai.OpenAI(base_url=sandbox.url, api_key="any")

    Raises:
        InputError: a field is not what it must be, or the port cannot be had.
    """

    url: str
    """The base URL to give to a client, with ``/v1``."""

    def __init__(self, **config: Any) -> None:
        try:
            self.config = SandboxConfig(**config)
        except ValidationError as error:
            raise InputError(f"sandbox: {first_problem(error)}") from error
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._in_thread, name="sandbox", daemon=True)

    @property
    def models(self) -> list[str]:
        """The model ids served."""
        return [teacher.model for teacher in self.config.teachers]

    def stats(self) -> dict[str, Any]:
        """The same as ``GET /stats``; can be asked for after the server stopped or died, too."""
        return self._app.stats.report()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._error:
            self._thread.join()
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server died by a fault
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _in_thread(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._error = error  # raised by __enter__ if the server did not come up
        finally:
            self._ready.set()

    async def _run(self) -> None:
        listening = await _listen(self.config)
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._app, self.url = listening.app, listening.url
        self._ready.set()
        await _until_stopped(listening, self._stop)
