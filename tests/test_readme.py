"""The README is true: its shell commands work, and its table lists every setting."""

import re
from collections.abc import Iterator

import pytest
from shell import README, ROOT, Shell

from aiorelay.settings import SETTINGS


@pytest.fixture
def shell(tmp_path) -> Iterator["Shell"]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.mark.needs("curl")
def test_every_line_of_shell_works(shell):
    shell.own_api()
    small = README.replace("-s 4G", "-s 400M")  # enough here, and ten times as fast
    blocks = re.findall(r"```sh\n(.*?)```", small, re.DOTALL)
    for block in blocks:
        *before, command = block.strip().replace("\\\n", " ").splitlines()
        if re.match(r"(\w+=\S+ )*scripts/run( -|$)", command):
            if before:
                shell.run("\n".join(before))
            ready = shell.serve(command)
            if not re.search("--only|--accept", command):  # which refuse the sample file, or have no embedded API
                assert '"status": "done"' in shell.run(f"{ready[-1]} -sS")
        elif "curl" in block:
            assert re.search('"(status|state)": ?"done"', shell.run(block.replace("curl ", "curl -sS ")))
        else:
            shell.run(block)
    assert len(blocks) > 8


@pytest.mark.needs("curl")
def test_the_csv_validator_works_as_described(shell):
    shell.serve("PYTHONPATH=. scripts/run --validator checks:CsvHeader")
    (shell.clone / "good.csv").write_text("date,amount,account\n2026-01-01,1,2\n")
    (shell.clone / "bad.csv").write_text("amount\n1\n")
    url = "https://localhost:8000/upload1"
    assert '"status": "done"' in shell.run(f'curl -sS --cacert "$CA" -F somefile=@good.csv {url}')
    assert "urn:aiorelay:content-refused" in shell.run(f'curl -sS --cacert "$CA" -F somefile=@bad.csv {url}')


def test_the_table_lists_every_setting():
    table = README.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert table.strip().splitlines() == settings_table()


def settings_table() -> list[str]:
    """Return the table of settings that the README must have."""
    rows = [
        f"| `{each.key}`{'*' if each.repeated else ''} | {each.default.replace('|', '&#124;')} | {each.help} |"
        for each in SETTINGS.values()
    ]
    return ["| setting | default | meaning |", "|---|---|---|", *rows]


if __name__ == "__main__":  # update the table
    before, begin, rest = README.partition("<!-- settings -->")
    _, end, after = rest.partition("<!-- /settings -->")
    (ROOT / "README.md").write_text("\n".join([before + begin, "", *settings_table(), "", end + after]))
