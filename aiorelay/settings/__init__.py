"""Settings: parse text from flags, environment and file into frozen values.

    kinds         kinds of values: amounts, choices, headers
    places        kinds of values: paths, hosts, networks, origins, URLs, the scanner's address
    buckets       kinds of values: buckets of object storage, and places in them
    routes        paths of other upload APIs, with settings of their own
    setting       one entry of the table, and ``SettingsError``
    defaults      defaults that depend on the machine or on other settings
    combinations  values that contradict each other
    table         ``Settings``: one entry for each setting; flags, variables, keys and help follow from it
    arguments     the keyword arguments of ``Settings``, typed
    reading       read the sources: flag before environment before file before default
    example       generate an example settings file

Nothing here accesses the network. Only ``find_file``, which reads the settings file, and ``find_validator``, which
imports the user's module, access the file system.
"""

from aiorelay.settings.defaults import ArchiveLimits
from aiorelay.settings.example import example
from aiorelay.settings.reading import ConfigFile, find_file, read
from aiorelay.settings.routes import Route
from aiorelay.settings.setting import Setting, SettingsError, suggestion
from aiorelay.settings.table import SETTINGS, Settings, unknown

__all__ = [
    "SETTINGS",
    "ArchiveLimits",
    "ConfigFile",
    "Route",
    "Setting",
    "Settings",
    "SettingsError",
    "example",
    "find_file",
    "read",
    "suggestion",
    "unknown",
]
