"""Settings: text in, frozen values out, decided once.

    kinds      kinds of values: amounts, words
    places     kinds of values: paths, hosts, networks, URLs, the scanner's address
    setting    one entry of the table, and ``SettingsError``
    table      ``Settings``: one entry a setting, everything else is derived from it
    arguments  the keyword arguments of ``Settings``, typed
    reading    flag beats environment beats file beats default; each value knows where it came from
    example    a file of settings that explains each of them

Nothing here touches the network or the file system, except ``find_file``, which reads the one file that it is told to,
and ``find_validator``, which imports the user's module.
"""

from aiorelay.settings.example import example
from aiorelay.settings.reading import ConfigFile, find_file, read
from aiorelay.settings.setting import Setting, SettingsError, suggestion
from aiorelay.settings.table import SETTINGS, ArchiveLimits, Settings, unknown

__all__ = [
    "SETTINGS",
    "ArchiveLimits",
    "ConfigFile",
    "Setting",
    "Settings",
    "SettingsError",
    "example",
    "find_file",
    "read",
    "suggestion",
    "unknown",
]
