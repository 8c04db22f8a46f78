"""Read settings from their sources: flag before environment before file before default.

An empty environment variable counts as unset, because systemd units and compose files unset a variable in this way.
Relative paths are relative to the working directory, except those in a file, which are relative to its directory.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiorelay.settings.defaults import default_state_dir
from aiorelay.settings.setting import Setting, SettingsError
from aiorelay.settings.table import SETTINGS, Settings, unknown

__all__ = ["ConfigFile", "find_file", "read"]

_PREFIX = "AIORELAY_"
_FILE_VARIABLE = "AIORELAY_CONFIG"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """The contents of a flat TOML file: its ``name`` as given by the user, and its absolute ``directory``."""

    name: str
    directory: Path
    values: Mapping[str, object]


def find_file(flag: str | None, environ: Mapping[str, str]) -> ConfigFile | None:
    """Read the file named by ``--config``, else by ``AIORELAY_CONFIG``. Return None if neither is given.

    Raises ``SettingsError`` if the file cannot be read or is not TOML.
    """
    if flag is not None:
        return _load(flag, "flag --config")
    if name := environ.get(_FILE_VARIABLE):
        return _load(name, f"environment {_FILE_VARIABLE}")
    return None


def _load(name: str, origin: str) -> ConfigFile:
    import tomllib  # noqa: PLC0415 - needed only with a file

    try:
        path = Path(name).expanduser().absolute()
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        reason = f"{name!r} cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        reason = f"{name!r} is not TOML: it is not in UTF-8"
    except tomllib.TOMLDecodeError as error:
        reason = f"{name!r} is not TOML: {error}"
    except (ValueError, RuntimeError, RecursionError):  # a NUL, no home directory for ~, nesting that is too deep
        reason = f"{name!r} cannot be read as a file of settings"
    else:
        return ConfigFile(name, path.parent, values)
    raise SettingsError("config", reason, "name a TOML file of settings", origin=origin)


def read(
    flags: Mapping[str, object], environ: Mapping[str, str], file: ConfigFile | None = None
) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and the origin of each value by attribute name.

    ``flags`` holds the given flags by attribute name. An origin is ``flag --max-size``,
    ``environment AIORELAY_MAX_SIZE``, ``file relay.toml`` or ``default``. Raises ``SettingsError``.
    """
    values: dict[str, Any] = {"state_dir": default_state_dir(environ)}
    origins = dict.fromkeys(SETTINGS, "default")
    for source in (_from_file(file) if file else (), _from_environment(environ), _from_flags(flags)):
        for setting, value, origin in source:
            values[setting.name] = value
            origins[setting.name] = origin
    try:
        return Settings.of(values), origins
    except SettingsError as error:
        raise error.with_origin(origins[error.key.replace("-", "_")]) from None


Given = Iterator[tuple[Setting, object, str]]


def _from_flags(flags: Mapping[str, object]) -> Given:
    for name, value in flags.items():
        setting = SETTINGS[name]
        yield setting, value, f"flag --no-{setting.key}" if value is False else f"flag {setting.flag}"


def _from_environment(environ: Mapping[str, str]) -> Given:
    by_variable = {setting.variable: setting for setting in SETTINGS.values()}
    for variable, text in environ.items():
        if not variable.startswith(_PREFIX) or variable == _FILE_VARIABLE or not text:
            continue
        origin = f"environment {variable}"
        setting = by_variable.get(variable)
        if setting is None:
            raise unknown(variable, text, spelling=lambda setting: setting.variable, origin="environment")
        yield (
            setting,
            [item.strip() for item in setting.kind.separator.split(text)] if setting.repeated else text,
            origin,
        )


def _from_file(file: ConfigFile) -> Given:
    origin = f"file {file.name}"
    for key, value in file.values.items():
        setting = SETTINGS.get(key)
        if setting is None:
            raise unknown(key, value, spelling=lambda setting: setting.name, origin=origin)
        yield setting, _anchored(setting, value, file.directory), origin


def _anchored(setting: Setting, value: object, directory: Path) -> object:
    anchor = setting.kind.anchor
    if isinstance(value, list):
        return [_anchored(setting, item, directory) for item in value]
    if isinstance(value, dict):  # a table of settings
        return {
            name: _anchored(SETTINGS[name], item, directory) if name in SETTINGS else item
            for name, item in value.items()
        }
    return anchor(value, directory) if anchor is not None and isinstance(value, str) else value
