"""Run three relays, Redis, an object store (SeaweedFS) and a load balancer on this machine, until interrupted.

With --soak, send uploads through the balancer meanwhile, kill a relay every 20 seconds, restart Redis twice, and stop
the object store for 10 seconds twice. Every answer of success must belong to exactly one object that equals what was
sent; every other object must belong to an answer that was lost; offsets must never run backwards; no part of an upload
may be left in the end.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from cluster_members import Cluster
from cluster_soak import soak


async def main() -> int:
    """Run the cluster, and return the exit status."""
    options = _options()
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiorelay-cluster-")))
        cluster = await stack.enter_async_context(Cluster.started(directory, options.balancer, options.relays))
        if options.soak:
            return await soak(cluster, options.soak * 60)
        print(f"balancer {cluster.url}\nCA {cluster.ca}")
        print(f"curl --cacert {cluster.ca} -F somefile=@README.md {cluster.url}/upload", flush=True)
        await asyncio.Event().wait()
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--balancer", choices=["haproxy", "nginx"], default="haproxy", help="default: haproxy")
    parser.add_argument("--relays", type=int, default=3, metavar="N", help="number of relays (default: 3)")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="send uploads and cause faults for this time")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
