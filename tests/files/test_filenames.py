"""File names: the one passed on, and the one used for storing."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiorelay.files.filenames import LONGEST, last_component, numbered, safe

# Any code points, including lone surrogates, with a high share of characters that the rules concern.
hostile = st.text(
    st.one_of(
        st.characters(exclude_categories=()),
        st.sampled_from(list('./\\-_ <>:"|?*\0\r\nCONaux1\u00b9\u202e\u0308\u0338\ud800\u3000日')),
    ),
    max_size=300,
)


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("a.txt", "a.txt"),
        ("dir/a.txt", "a.txt"),
        ("C:\\dir\\a.txt", "a.txt"),
        ("../../x", "x"),
        ("a\\b/c", "c"),
        ("a/b\\c", "c"),
        ("dir/", ""),
        ("", ""),
        ("C:a.txt", "C:a.txt"),
    ],
)
def test_both_separators_end_a_directory(name: str, last: str) -> None:
    assert last_component(name) == last


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("report.pdf", "report.pdf"),
        ("日本.txt", "日本.txt"),
        ("naïve façade.txt", "naïve façade.txt"),
        ("cafe\u0301.txt", "café.txt"),
        ("a  b.txt", "a  b.txt"),
        ("archive.tar.gz", "archive.tar.gz"),
        ("100%.txt", "100%.txt"),
        ("a'b;c&d$e.txt", "a'b;c&d$e.txt"),
    ],
)
def test_an_ordinary_name_is_kept(name: str, stored: str) -> None:
    assert safe(name) == stored


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../etc/passwd", "passwd"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        ("/", "file"),
        ("...", "file"),
        ("- -.", "file"),
        ("\0", "file"),
        ("a\0b.txt", "ab.txt"),
        ("a\r\nb.txt", "ab.txt"),
        ("a\u2028b\u2029.txt", "ab.txt"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("zero\u200bwidth.txt", "zerowidth.txt"),
        ("\ufeffa.txt", "a.txt"),
        ("\ud800.txt", "\ufffd.txt"),
        ("a\udcff.txt", "a\ufffd.txt"),
        ("C:a.txt", "C_a.txt"),
        ('<>:"|?*', "_______"),
        (".bashrc", "bashrc"),
        ("-rf", "rf"),
        ("--help .txt", "help .txt"),
        (" . -a", "a"),
        ("a.txt. .", "a.txt"),
        ("a.txt\u3000\u00a0", "a.txt"),
        ("\u200e.hidden", "hidden"),
    ],
)
def test_misleading_characters_are_removed(name: str, stored: str) -> None:
    assert safe(name) == stored


@pytest.mark.parametrize(
    "name",
    [
        "CON",
        "con",
        "Prn.txt",
        "AUX.tar.gz",
        "nul .txt",
        "COM1",
        "com9.log",
        "LPT1.",
        "COM\u00b9.txt",
        "lpt\u00b3",
        "CONIN$",
    ],
)
def test_a_windows_device_gets_an_underscore(name: str) -> None:
    assert safe(name) == "_" + name.rstrip(".")


@pytest.mark.parametrize("name", ["CONSOLE", "con artist.txt", "COM10", "COM", "LPTX", "_CON", "a.CON", "NULL.txt"])
def test_a_name_that_only_resembles_a_device_is_kept(name: str) -> None:
    assert safe(name) == name


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a" * LONGEST, "a" * LONGEST),
        ("a" * (LONGEST + 1), "a" * LONGEST),
        ("a" * 300 + ".pdf", "a" * (LONGEST - 4) + ".pdf"),
        ("日" * 100 + ".txt", "日" * 65 + ".txt"),
        ("é" * 150, "é" * 100),
        ("a" * 198 + ". " + "b" * 100, "a" * 198),
        ("a." + "b" * 300, "a." + "b" * 198),
        ("CON" + " " * 300 + "x.txt", "_CON.txt"),
        ("CON." + "a" * 300, "_CON." + "a" * 195),
    ],
)
def test_a_long_name_is_truncated_between_characters_before_its_extension(name: str, stored: str) -> None:
    assert safe(name) == stored


@given(hostile)
@example("\ud83d\ude00")
@example("A" * 199 + "\u0301")
@example("<\u0338.txt")
def test_a_safe_name_is_one_component_of_bounded_length(name: str) -> None:
    stored = safe(name)
    assert stored not in {"", ".", ".."}
    assert not set('/\\<>:"|?*') & set(stored)
    assert stored[0] not in ".- "
    assert stored[-1] not in ". "
    assert 1 <= len(stored.encode()) <= LONGEST
    assert unicodedata.is_normalized("NFC", stored)
    assert not {unicodedata.category(character) for character in stored} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(hostile)
@example("CON" + " " * 300 + "x")
@example("a" * 199 + " .x")
def test_a_safe_name_is_its_own_safe_name(name: str) -> None:
    assert safe(safe(name)) == safe(name)


@pytest.mark.parametrize(
    ("name", "second"), [("a.txt", "a-2.txt"), ("a", "a-2"), ("a.tar.gz", "a.tar-2.gz"), ("日本.txt", "日本-2.txt")]
)
def test_the_number_is_inserted_before_the_extension(name: str, second: str) -> None:
    assert numbered(name, 2) == second


@given(hostile, st.integers(2, 10**9))
def test_a_numbered_safe_name_still_fits_a_filesystem(name: str, number: int) -> None:
    assert len(numbered(safe(name), number).encode()) <= 255
