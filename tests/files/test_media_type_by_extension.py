"""Media types by file name extension."""

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
def test_the_type_includes_the_compression(name, media_type):
    assert media_type_by_extension(name) == media_type
