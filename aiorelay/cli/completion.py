"""Generate the completion script for bash, which zsh runs through bashcompinit."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["Flag", "script"]

_SCRIPT = """\
# Completes aiorelay's arguments: source this in bash, and in zsh after compinit.
if [[ -n ${{ZSH_VERSION-}} ]]; then autoload -U +X bashcompinit && bashcompinit; fi
_aiorelay() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} words=
  case ${{COMP_WORDS[COMP_CWORD-1]}} in
{values}
    *) case $COMP_CWORD:$word:${{COMP_WORDS[1]}} in
{flags}
      1:*) words='{commands}' ;;
{actions}
    esac ;;
  esac
  # Without a match, the shell completes file names.
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _aiorelay aiorelay
"""
_CHOICE = re.compile(r"\w+(\|\w+)+")


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag and the metavar of its value: None without a value, ``a|b`` for a choice."""

    name: str
    metavar: str | None


def script(
    commands: Mapping[str, Iterable[Flag]], default: str, actions: Mapping[str, Iterable[str]] | None = None
) -> str:
    """Return the script for these commands and their flags. ``default`` is the command without a name.

    ``actions`` are the first arguments of commands that have only these.
    """
    known = {name: list(flags) for name, flags in commands.items()}
    values = {flag.name: flag.metavar for flags in known.values() for flag in flags if flag.metavar is not None}
    chosen = {name: metavar.split("|") for name, metavar in values.items() if _CHOICE.fullmatch(metavar)}
    cases = [f"    {name}) words='{' '.join(words)}' ;;" for name, words in chosen.items()]
    cases.append(f"    {'|'.join(name for name in values if name not in chosen)}) ;;")
    flags = [
        f"      *:-*:{'*' if name == default else name}) words='{' '.join(flag.name for flag in known[name])}' ;;"
        for name in sorted(
            known, key=lambda name: name == default
        )  # its pattern matches every word, so it must be last
    ]
    first = [f"      2:*:{name}) words='{' '.join(words)}' ;;" for name, words in (actions or {}).items()]
    return _SCRIPT.format(
        values="\n".join(cases), flags="\n".join(flags), commands=" ".join(known), actions="\n".join(first)
    )
