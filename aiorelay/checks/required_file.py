"""Refuse a form that has no file in the form field that must carry one."""

from aiorelay.checks.pipeline import Check
from aiorelay.errors import MissingFile
from aiorelay.multipart.form import Part

__all__ = ["RequiredFile"]


class RequiredFile:
    """A ``CheckFactory`` that looks for a file in ``field`` among the parts of one form. It makes no checks.

    An empty file without a name does not count: browsers send it for a file input that was not filled in.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._found = False

    def __call__(self, part: Part) -> Check | None:
        if part.is_file and part.name == self._field:
            self._found = True
        return None

    def form_ended(self) -> None:
        """Raise ``MissingFile`` if there was none. To be called when all parts have ended."""
        if not self._found:
            raise MissingFile(f"No file was sent in the form field {self._field!r}.")
