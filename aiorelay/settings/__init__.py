"""Settings: text in, frozen values out, decided once.

kinds      what a kind of value is: accepted from text or typed, shown again, masked where it is secret
├── amounts    sizes, times, counts and ports
├── places     paths, hosts, networks, the upstream's URL, the scanner's address
└── words      choices, switches, header lines, field names, media types, names of validators
setting    what a setting is, and ``SettingsError``
table      ``Settings``: one entry per setting, everything else is derived from it
reading    flag beats environment beats file beats default, and each value knows where it came from
example    a file of settings that explains each of them

Nothing here touches the network or the file system, save ``find_file``, which reads the one file it is told to.
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
