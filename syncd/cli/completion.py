"""What a shell's completion asks of syncd: click's protocol, ``_SYNCD_COMPLETE=bash_source`` and the like.

Whoever presses the tab key is told nothing of errors, waits for no daemon, and makes or changes nothing.
"""

from collections.abc import Iterator
from contextlib import suppress

import click
from click.shell_completion import BashComplete, add_completion_class, shell_complete

from syncd.cli.session import Session
from syncd.errors import SyncdError
from syncd.oci.name import ModelName
from syncd.store import layout
from syncd.store.files import Folder

_PARTS = 4  # of a name, and of a manifest's path: host, namespace, model, tag

# click's own takes bash's words as they are. Bash ends a word at the colon of a model's name and at the @ of a pinned
# one (COMP_WORDBREAKS), and replaces only what follows the last of these.
_BASH = r"""%(complete_func)s() {
    local -a words=()
    local index part glue="" strip="" type value
    for ((index = 0; index <= COMP_CWORD; index++)); do
        part=${COMP_WORDS[index]}
        strip=""
        if ((index == COMP_CWORD)) && [[ ${COMP_LINE:0:COMP_POINT} == *[[:space:]] ]]; then
            words+=("")
        elif ((index > 1)) && [[ $glue || $part =~ ^[:=@]+$ ]]; then
            words[-1]+=$part
            strip=${words[-1]%%"${words[-1]##*[:=@]}"}
        else
            words+=("$part")
        fi
        [[ $part =~ ^[:=@]+$ ]] && glue=1 || glue=""
    done
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$strip"}") ;;
        esac
    done < <(IFS=$'\n' && COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    name = "bash"
    source_template = _BASH


def answer(command: click.Command, instruction: str, *, variable: str) -> int:
    """Print what ``instruction`` (such as ``bash_complete``) asks for; the exit code, 1 if that could not be told."""
    add_completion_class(_Bash)
    try:
        return shell_complete(command, {}, "syncd", variable, instruction)
    except Exception:  # noqa: BLE001 - a message would be printed into what somebody is typing
        return 1


def names(context: click.Context, incomplete: str) -> list[str]:
    """The models of the store that ``context`` means whose names begin so. None where they cannot be read."""
    try:
        # The store itself is not opened: everybody may read its manifests, and only its owner the rest.
        path = Session.begin(context, quiet=True, lenient=True).choice.path
        with Folder.open(path / layout.MANIFESTS) as manifests:
            found = sorted(str(name) for name in _below(manifests))
    except SyncdError:
        return []
    return [name for name in found if name.startswith(incomplete)]


def _below(folder: Folder, *above: str) -> Iterator[ModelName]:
    """The names whose manifests lie below ``folder``, which is that of the parts ``above`` of a name."""
    for entry in folder.list():
        parts = (*above, entry.name)
        with suppress(SyncdError):
            if len(parts) == _PARTS and entry.is_file:
                yield ModelName(*parts)
            elif len(parts) < _PARTS and entry.is_folder and (below := folder.sub(entry.name)) is not None:
                with below:
                    yield from _below(below, *parts)
