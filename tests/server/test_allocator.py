"""malloc keeps freed memory instead of returning it to the kernel."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

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


def test_freed_blocks_are_reused_without_page_faults():
    assert faults("kept") < faults("by default") / 10
