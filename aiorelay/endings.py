"""The media type that the ending of a file's name promises."""

import mimetypes

__all__ = ["media_type_by_extension"]

# A type of the coding for what `mimetypes` takes for one: `.tar.gz` is a gzip file, not a tar file.
_CODINGS = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/octet-stream",
}


def media_type_by_extension(name: str) -> str | None:
    """The media type of a file called ``name``, which is one path component; None where its ending tells none."""
    # Behind a letter, no part of the name can look like the scheme of a URL.
    guess, coding = mimetypes.guess_type(f"a{name}", strict=False)
    return _CODINGS.get(coding) if coding else guess
