"""The rules for all tests: ids that can be typed, and declared programs."""

import re
import subprocess

import pytest
from programs import PACKAGES, program

TYPABLE = re.compile(r"[ !-\[\]-~]{0,100}")  # printable ASCII without the backslash, which stands for other bytes


def test_every_id_can_be_typed(request):
    ids = [item.nodeid for item in request.session.items]
    assert not [each for each in ids if not TYPABLE.fullmatch(each.partition("[")[2])]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_program_that_is_not_declared_cannot_be_run(name):
    with pytest.raises(AssertionError, match=rf'needs\("{name}"\)'):
        program(name)
    with pytest.raises(AssertionError, match=rf'needs\("{name}"\)'):
        subprocess.run([name, "--version"], check=True)
