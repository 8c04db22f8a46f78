"""What a type checker finds for users of the package: each marked line is wrong, and no other is."""

import aiorelay
from aiorelay import Settings, StartChain

Settings(max_sise=1)  # wrong: call-arg
Settings(rest1_port="abc")  # wrong: arg-type
Settings(only="rest3")  # wrong: arg-type
Settings(fsync="yes")  # wrong: arg-type
_ = aiorelay.srve  # wrong: attr-defined


async def test(aiorelay_server: StartChain) -> None:
    """Use the fixture."""
    await aiorelay_server(max_sise="1MiB")  # wrong: call-arg
