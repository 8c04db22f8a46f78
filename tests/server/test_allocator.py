"""The allocator keeps blocks instead of asking the kernel for each."""

import subprocess
import sys

LOOP = """
import resource, sys
from aiorelay.server.lifecycle import keep_freed_blocks
if sys.argv[1] == "kept":
    assert keep_freed_blocks()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(500):
    blocks = [bytearray(200_000) for _ in range(4)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", LOOP, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_blocks_that_come_and_go_cost_no_page_faults():
    assert faults("kept") < faults("by default") / 10
