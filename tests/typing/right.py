"""What users of the package may write: a type checker finds nothing wrong with it."""

from pathlib import Path

import aiorelay
from aiorelay import FileInfo, Refused, Settings, StartChain, Validator, serve


class CsvOnly:
    """A validator."""

    def __init__(self, file: FileInfo) -> None:
        self.is_csv = file.filename.endswith(".csv") and (file.size or 0) < 1_000_000

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""

    def finish(self) -> None:
        """Give the verdict."""
        if not self.is_csv:
            raise Refused("CSV only")


def factory(file: FileInfo) -> Validator:
    """Make one."""
    return CsvOnly(file)


async def main() -> str:
    """Run a chain."""
    settings = Settings(rest1_port=0, max_size="1MiB", idle_timeout=2.5, local_root=[Path("/srv"), "/data"], only=None)
    async with serve(settings) as chain:
        return f"{aiorelay.__version__} {chain.rest1} {settings.max_size + 1}"


async def test(aiorelay_server: StartChain) -> None:
    """Use the fixture."""
    chain = await aiorelay_server(max_size="1MiB", fsync=False)
    assert chain.stored() == []
