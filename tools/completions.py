# SPDX-License-Identifier: Apache-2.0
"""Writes data/completions/ from the parser of bootcctl, so that the shells know what the program knows.

`make completions` runs it; a test fails when the files are not what it would write.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bootcd.cli.parser import build_parser

TARGET = Path(__file__).resolve().parents[1] / "data" / "completions"
HEADER = "# SPDX-License-Identifier: Apache-2.0\n# Written by tools/completions.py; do not edit.\n"

ROLES = "booted default staged rollback"
KINDS = {"DIR": "directories", "FILE": "files", "DISK": "files", "PATH": "files", "SOURCE": "files",
         "DEPLOYMENT": "deployments"}
LIST = "--quiet list --json 2>/dev/null"
NAMES = r"""sed -n -e 's/^ *"id": "\(.\{12\}\).*/\1/p' -e 's/^ *"\(version\|label\)": "\([^" ]\{1,\}\)",*$/\2/p'"""
"""Ids, versions and labels out of that list. What has blanks in it is left out, since the shells differ in quoting."""


class Verb:
    """A (sub)command: its words, options as (spellings, help, value), the values of its positional arguments (the last
    one may be repeated) and the verbs below."""

    def __init__(self, words: tuple[str, ...], parser: argparse.ArgumentParser) -> None:
        self.words = words
        self.options: list[tuple[list[str], str, str]] = []
        self.values: list[str] = []
        self.verbs: list[tuple[str, str]] = []
        self.children: list[Verb] = []
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                self.verbs = [(choice.dest, choice.help or "") for choice in action._choices_actions]
                self.children = [Verb((*words, name), child) for name, child in action.choices.items()]
            elif action.help == argparse.SUPPRESS:
                continue  # stands in the main help
            elif action.option_strings:
                help = (action.help or "").replace("%(default)s", str(action.default))
                value = "" if action.nargs == 0 else _value(action, words)
                self.options.append((list(action.option_strings), help, value))
            else:
                self.values.append(_value(action, words))

    def walk(self) -> Iterator[Verb]:
        yield self
        for child in self.children:
            yield from child.walk()


def _value(action: argparse.Action, words: tuple[str, ...]) -> str:
    """What a value is: choices with blanks between them, `directories`, `files`, `deployments` or `text`."""
    if action.choices:
        return " ".join(map(str, action.choices))
    if action.metavar == "IMAGE" and words[:1] == ("composefs",):
        return "files"
    if isinstance(action.metavar, tuple):
        return "files"  # so far, whatever takes two values takes two files
    return KINDS.get(str(action.metavar), "text")


def bash(top: Verb) -> str:
    verbs = "".join(f"        [{_key(verb)}]='{' '.join(name for name, _ in verb.verbs)}'\n"
                    for verb in top.walk() if verb.verbs)
    options = "".join(f"        [{_key(verb)}]='{' '.join(name for names, _, _ in verb.options for name in names)}'\n"
                      for verb in top.walk())
    values = "".join(f"        [{_key(verb)}]='{' '.join(verb.values)}'\n" for verb in top.walk() if verb.values)
    taking = {name: value for verb in top.walk() for names, _, value in verb.options if value for name in names}
    option_values = "".join(f"        [{name}]='{value}'\n" for name, value in sorted(taking.items()))
    return HEADER + f"""\
_bootcctl() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} path=. word index skip= kind=
    local -a given=() global=() kinds=()
    local -A verbs=(
{verbs}    ) options=(
{options}    ) values=(
{values}    ) option_values=(
{option_values}    )
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${{COMP_WORDS[index]}}
        [[ $path == . ]] && global+=("$word")
        if [[ $word == = && $skip ]]; then
            continue
        elif [[ $skip ]]; then
            skip=
        elif [[ $word == -* ]]; then
            skip=${{option_values[$word]-}}
        elif [[ " ${{verbs[$path]-}} " == *" $word "* ]]; then
            [[ $path == . ]] && unset 'global[-1]'
            path+=$word.
        else
            given+=("$word")
        fi
    done
    [[ $current == = && $skip ]] && current=
    if [[ $skip ]]; then
        kind=$skip
    elif [[ $current == -* ]]; then
        kind=${{options[$path]-}}
    elif [[ ${{verbs[$path]-}} ]]; then
        kind=${{verbs[$path]}}
    else
        read -ra kinds <<< "${{values[$path]-}}"
        index=${{#given[@]}}
        ((index < ${{#kinds[@]}})) || index=$((${{#kinds[@]}} - 1))
        ((index < 0)) || kind=${{kinds[index]}}
    fi
    case $kind in
        directories) mapfile -t COMPREPLY < <(compgen -d -- "$current"); compopt -o filenames ;;
        files) mapfile -t COMPREPLY < <(compgen -f -- "$current"); compopt -o filenames ;;
        deployments) mapfile -t COMPREPLY < <(compgen -W "{ROLES} $(_bootcctl_deployments)" -- "$current") ;;
        text) COMPREPLY=() ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}}
_bootcctl_deployments() {{
    "${{COMP_WORDS[0]}}" "${{global[@]}}" {LIST} | {NAMES}
}}
complete -F _bootcctl bootcctl
"""


def _key(verb: Verb) -> str:
    return "." + "".join(f"{word}." for word in verb.words)


def zsh(top: Verb) -> str:
    functions = "".join(_zsh_function(verb) for verb in reversed(list(top.walk())))
    deployments = f"""_bootcctl_deployments() {{
    local -a found=({ROLES} ${{(f)"$(bootcctl "${{global[@]}}" {LIST} | {NAMES})"}})
    compadd -a found
}}

"""
    return f"#compdef bootcctl\n{HEADER}\n{deployments}{functions}_bootcctl \"$@\"\n"


def _zsh_function(verb: Verb) -> str:
    lines = []
    for names, help, value in verb.options:
        text = _zsh_quote(help)
        action = f":{_zsh_action(value)}" if value else ""
        if len(names) > 1:
            lines.append(f"'({' '.join(names)})'{{{','.join(names)}}}'[{text}]{action}'")
        else:
            lines.append(f"'{names[0]}[{text}]{action}'")
    if verb.verbs:
        lines += ["'1: :->verb'", "'*:: :->rest'"]
    lines += [f"'{number}:{_zsh_action(value)}'" for number, value in enumerate(verb.values[:-1], 1)]
    lines += [f"'*:{_zsh_action(value)}'" for value in verb.values[-1:]]
    body = " \\\n        ".join(lines)
    name = "_".join(["_bootcctl", *verb.words]).replace("-", "_")
    if not verb.verbs:
        return f"{name}() {{\n    _arguments -s \\\n        {body}\n}}\n\n"
    described = "\n".join(f"                '{child}:{_zsh_quote(help)}'" for child, help in verb.verbs)
    cases = "\n".join(f"                {child}) {name}_{child.replace('-', '_')} ;;" for child, _ in verb.verbs)
    # What stands before the verb says which installation is meant; the functions below see it.
    before = after = ""
    if not verb.words:
        before = '    local -a words_all=("${words[@]}") global\n'
        after = '    global=("${(@)words_all[2,$((${#words_all} - ${#words}))]}")\n'
    return f"""{name}() {{
    local state line
    local -a verbs
{before}    _arguments -s -C \\
        {body}
{after}    case $state in
        verb)
            verbs=(
{described}
            )
            _describe verb verbs ;;
        rest)
            case $line[1] in
{cases}
            esac ;;
    esac
}}

"""


def _zsh_action(value: str) -> str:
    return {"directories": "directory:_files -/", "files": "file:_files", "text": "value: ",
            "deployments": "deployment:_bootcctl_deployments"}.get(value, f"value:({value})")


def _zsh_quote(text: str) -> str:
    return text.replace("'", "'\\''").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")


def fish(top: Verb) -> str:
    lines = [HEADER, f"""\
# The words of the verb, and with "global" what stands before it.
function __bootcctl_words
    set -l words
    set -l global
    set -l skip 0
    for word in (commandline -opc)[2..]
        if test $skip = 1
            set skip 0
        else if string match -q -- '-*' $word
            contains -- $word $__bootcctl_valued; and set skip 1
        else if test (count $words) = 0
            or begin
                test (count $words) = 1
                and contains -- $words[1] $__bootcctl_groups
            end
            set -a words $word
        end
        test (count $words) = 0; and set -a global $word
    end
    if test "$argv" = global
        set -q global[1]; and printf '%s\\n' $global
    else
        printf '%s\\n' $words
    end
end
# Succeeds when exactly these verbs stand on the command line so far.
function __bootcctl_at
    test (__bootcctl_words | string join ' ') = "$argv"
end
function __bootcctl_deployments
    string split ' ' -- '{ROLES}'
    bootcctl (__bootcctl_words global) {LIST} | {NAMES}
end
"""]
    taking = sorted({name for verb in top.walk() for names, _, value in verb.options if value for name in names})
    groups = [" ".join(verb.words) for verb in top.walk() if verb.verbs and verb.words]
    lines.append(f"set -g __bootcctl_valued {' '.join(taking)}\nset -g __bootcctl_groups {' '.join(groups)}\n"
                 "complete -c bootcctl -f\n")
    for verb in top.walk():
        here = f"complete -c bootcctl -n '__bootcctl_at {' '.join(verb.words)}'"
        for name, help in verb.verbs:
            lines.append(f"{here} -a {name} -d {_fish_quote(help)}\n")
        for names, help, value in verb.options:
            spelled = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in names)
            lines.append(f"{here} {spelled}{_fish_value(value, True)} -d {_fish_quote(help)}\n")
        for value in dict.fromkeys(verb.values):
            if value != "text":
                lines.append(f"{here}{_fish_value(value, False)}\n")
    return "".join(lines)


def _fish_value(value: str, option: bool) -> str:
    if not value:
        return ""
    if value == "files":
        return " -r -F" if option else " -F"
    offered = {"directories": "(__fish_complete_directories)", "text": "",
               "deployments": "(__bootcctl_deployments)"}.get(value, value)
    return (" -x" if option else "") + (f" -a '{offered}'" if offered else "")


def _fish_quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def generate() -> dict[str, str]:
    """File name → content."""
    top = Verb((), build_parser())
    return {"bootcctl.bash": bash(top), "bootcctl.zsh": zsh(top), "bootcctl.fish": fish(top)}


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.mkdir(parents=True, exist_ok=True)
    for name, text in generate().items():
        (target / name).write_text(text)


if __name__ == "__main__":
    main()
