"""Find the credentials and the region as the AWS SDKs do: environment, shared files, and the roles of machines."""

import asyncio
import logging
from typing import Any

from aiorelay.errors import StartupError
from aiorelay.object_storage.signing import Credentials

__all__ = ["KeyChain"]


class KeyChain:
    """The credentials that botocore finds, and renews if they are temporary."""

    def __init__(self, session: Any, found: Any) -> None:
        self._found = found
        self.region: str | None = session.get_config_variable("region")

    @classmethod
    async def find(cls, setting: str) -> "KeyChain":
        """Look for credentials, in a thread: some come from a service of the machine.

        ``setting`` is the one that needs them. Raises ``StartupError`` if there are none.
        """
        return await asyncio.to_thread(cls._find, setting)

    @classmethod
    def _find(cls, setting: str) -> "KeyChain":
        try:
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415 - an extra
            from botocore.session import Session  # noqa: PLC0415 - slow to import, and few need it
        except ImportError as error:
            raise StartupError(f"{setting}: botocore is not installed. Run: pip install 'aiorelay[s3]'.") from error
        logging.getLogger("botocore").propagate = False  # its debug messages contain credentials
        logging.getLogger("botocore").addHandler(logging.NullHandler())
        try:
            session = Session()
            found = session.get_credentials()
            chain = cls(session, found)
        except BotoCoreError as error:
            raise StartupError(f"{setting}: the configuration of the AWS SDK cannot be used: {error}") from error
        if found is None:
            raise StartupError(
                f"{setting}: there are no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this "
                "machine a role."
            )
        return chain

    async def current(self) -> Credentials:
        """Return the present credentials. Temporary ones are renewed before they expire, in a thread.

        Raises an exception of botocore if that fails.
        """
        renews = getattr(self._found, "refresh_needed", None)
        if renews is not None and renews():
            frozen = await asyncio.to_thread(self._found.get_frozen_credentials)
        else:
            frozen = self._found.get_frozen_credentials()
        return Credentials(frozen.access_key, frozen.secret_key, frozen.token)
