"""Run scripts on the server that keeps the shared state: Redis 7, Valkey, or a compatible one.

redis-py is imported here only at use: it is an extra.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, Protocol

from yarl import URL

from aiorelay.concurrency.cancellation import cancellable
from aiorelay.errors import StartupError, StateUnavailable
from aiorelay.observability.logs import log
from aiorelay.state.channels import Channels

__all__ = ["PREFIX", "Script", "StateAddress", "StateServer", "open_state"]

PREFIX: Final = "aiorelay:1:"
"""The beginning of every key."""

# Seconds that a call may take in all. Uploads wait for some of them.
_TIMEOUT: Final = 2.0
# Of one attempt. The second attempt is for connections that the server has closed since they were last used.
_ATTEMPT_TIMEOUT: Final = 1.0
_CONNECTIONS: Final = 16
_PORT: Final = 6379
_UNAVAILABLE: Final = "The relay cannot reach the server that keeps its shared state. Try again later."


@dataclass(frozen=True, slots=True, kw_only=True)
class StateAddress:
    """Where the server is: ``redis://[user:password@]host[:port][/number]``, or ``rediss://`` for TLS.

    ``ca`` is a file of certificates that are trusted instead of the system's.
    """

    url: URL
    ca: Path | None = None

    def __str__(self) -> str:
        """Return the address without its secrets."""
        host = self.url.host or ""
        return f"{f'[{host}]' if ':' in host else host}:{self.url.port or _PORT}"

    def options(self) -> dict[str, Any]:
        """Return the arguments of a connection of redis-py."""
        url = self.url
        tls = {"ssl_ca_certs": None if self.ca is None else str(self.ca)} if url.scheme == "rediss" else {}
        return {
            "host": url.host,
            "port": url.port or _PORT,
            "username": url.user or None,
            "password": url.password,
            "db": int(url.path.strip("/") or 0),
            "socket_connect_timeout": _ATTEMPT_TIMEOUT,
            "socket_timeout": _ATTEMPT_TIMEOUT,
            "protocol": 2,  # RESP2: messages of channels are plain lists, and replies are the same on every server
            "driver_info": None,  # sends no CLIENT SETINFO, which users with few permissions may not run
            **tls,
        }


@dataclass(frozen=True, slots=True)
class Script:
    """A script in Lua, which the server runs as one step. ``name`` is its label in the metrics."""

    name: str
    source: str


class Observe(Protocol):
    """Is called after each call with the name of its script, its seconds, and whether it succeeded."""

    def __call__(self, call: str, seconds: float, *, succeeded: bool) -> None: ...


class StateServer:
    """The server at ``address``, made by ``open_state``. ``channels`` are those of its messages."""

    def __init__(
        self,
        address: StateAddress,
        client: Any,
        channels: Channels,
        errors: tuple[type[Exception], ...],
        observe: Observe,
    ) -> None:
        self.address = address
        self.channels = channels
        self._client = client
        self._errors = errors
        self._observe = observe
        self._registered: dict[Script, Any] = {}
        self._away = False

    async def run(self, script: Script, keys: Sequence[str], *arguments: str | int) -> Any:
        """Run a script and return its reply. Raises ``StateUnavailable``.

        It may be run twice if the connection breaks, so a script gives the same reply to the same arguments, or an
        error of one on the safe side.
        """
        registered = self._registered.get(script)
        if registered is None:
            registered = self._registered[script] = self._client.register_script(script.source)
        start, succeeded = time.perf_counter(), False
        try:
            async with asyncio.timeout(_TIMEOUT):
                reply = await cancellable(registered(keys=keys, args=arguments))
            succeeded = True
        except self._errors as error:
            self._is_away(error)
            raise StateUnavailable(_UNAVAILABLE) from error
        finally:
            self._observe(script.name, time.perf_counter() - start, succeeded=succeeded)
        if self._away:
            self._away = False
            log.info("the state server %s can be reached again", self.address)
        return reply

    async def reachable(self) -> bool:
        """Whether the server answers now."""
        with contextlib.suppress(StateUnavailable):
            await self.run(_PING, [])
            return True
        return False

    def _is_away(self, error: Exception) -> None:
        """Log the first of several failures."""
        if not self._away:
            self._away = True
            log.warning("the state server %s cannot be used: %s", self.address, _reason(error))


_PING: Final = Script("ping", "return 1")


@asynccontextmanager
async def open_state(address: StateAddress, observe: Observe) -> AsyncGenerator[StateServer, None]:
    """Connect to a server for as long as the context lasts.

    A server that cannot be reached is no error: it may come later. Raises ``StartupError`` if redis-py is not
    installed, if the CA cannot be read, or if the server refuses the credentials.
    """
    try:
        redis = import_module("redis.asyncio")
        exceptions = import_module("redis.exceptions")
        retrying, backoff = import_module("redis.asyncio.retry"), import_module("redis.backoff")
    except ImportError as error:
        raise StartupError("state: redis-py is not installed. Run: pip install 'aiorelay[redis]'.") from error
    connection_class = redis.SSLConnection if address.url.scheme == "rediss" else redis.Connection
    options = {**address.options(), "retry": retrying.Retry(backoff.NoBackoff(), 1)}
    if address.ca is not None and not address.ca.is_file():
        raise StartupError(f"state-ca: {address.ca} is not a file. Name a file of certificates (PEM).")
    pool = redis.BlockingConnectionPool(
        connection_class=connection_class, max_connections=_CONNECTIONS, timeout=_ATTEMPT_TIMEOUT, **options
    )
    errors = (exceptions.RedisError, OSError, TimeoutError)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(pool.aclose)
        channels = await stack.enter_async_context(Channels(lambda: connection_class(**options), errors))
        server = StateServer(address, redis.Redis(connection_pool=pool), channels, errors, observe)
        try:
            await server.run(_PING, [])
        except StateUnavailable as unavailable:
            _check(unavailable.__cause__, address)
        yield server


def _check(error: BaseException | None, address: StateAddress) -> None:
    """Raise ``StartupError`` for an error that time does not mend."""
    fault = _REFUSALS.get(type(error).__name__)
    if fault is None and str(error).startswith("DB index"):
        fault = "has no database with this number. Correct the URL"
    if fault is not None:
        raise StartupError(f"state: the server {address} {fault}.") from error


# By the classes of redis-py.
_REFUSALS: Final = {
    "AuthenticationError": "refuses the user or the password. Correct the URL",
    "AuthenticationWrongNumberOfArgsError": "refuses the user or the password. Correct the URL",
    "NoPermissionError": "permits its user too little. Permit EVALSHA, and keys and channels that begin with aiorelay:",
}


def _reason(error: Exception) -> str:
    """Return what is wrong, without data: some replies of the server quote the arguments of a command."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate cannot be verified; see state-ca"
    return text.partition(", with args")[0] or type(error).__name__
