"""What the ending of a file's name promises."""

import pytest

from aiorelay.files.filenames import media_type_by_extension


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.PDF", "application/pdf"),
        ("a.webp", "image/webp"),
        ("a.tar", "application/x-tar"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.tar.xz", "application/x-xz"),
        ("data:text/html,a.pdf", "application/pdf"),
        ("a.unheard-of", None),
        ("README", None),
        ("", None),
    ],
)
def test_type_is_that_of_the_file_as_it_is(name, media_type):
    assert media_type_by_extension(name) == media_type
