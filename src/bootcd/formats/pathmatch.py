# SPDX-License-Identifier: Apache-2.0
"""Many regular expressions against many paths, in time linear in the paths.

SELinux policies label files by thousands of expressions, of which the last that matches a path wins. `Matcher` runs
all of them at once as one automaton that is made deterministic where paths lead, so no expression can make it
backtrack, and the state after a directory is where its children start. What expressions literally begin with is kept
in a trie, so that a state holds only the few that paths have really entered. A match spans the whole path.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from bootcd.formats.pathregex import Choice, RegexError, Repeat, Sequence, Set, Start, Tree, parse

NODES_MAX: Final = 10_000
"""Nodes of one expression, which counted repetitions multiply."""
ALL_NODES_MAX: Final = 500_000
"""Nodes of all expressions, with those of the trie; a policy of some thousand rules has about 100,000."""
CACHE_MAX: Final = 1_000_000
"""How many nodes the states of the deterministic automaton may hold together; beyond that it starts anew."""
REACH_MAX: Final = 5_000_000
"""How many nodes may be reachable from nodes without consuming anything, in sum."""
WORK_MAX: Final = 50_000_000
"""How many nodes may be looked at to make states, which takes some seconds. 6000 rules need 1.4 million of it for
100,000 files."""


class TooMuchWork(Exception):
    """The expressions together need too much time."""


_Reach: TypeAlias = "tuple[tuple[_ByteNode, ...], tuple[int, ...]]"


class _Node:
    """Goes on to all of `branches` without consuming anything. `rule` is what has matched when the node is reached at
    the end of the path, or -1."""

    __slots__ = ("branches", "reach", "rule")

    def __init__(self, rule: int = -1) -> None:
        self.branches: list[_Node] = []
        self.rule = rule
        self.reach: _Reach | None = None

    def find_reach(self) -> _Reach:
        """Set `reach`: the nodes that consume something and the rules that match, as seen from here."""
        seen: set[_Node] = {self}
        todo: list[_Node] = [self]
        for node in todo:
            for branch in node.branches:
                if branch not in seen:
                    seen.add(branch)
                    todo.append(branch)
        self.reach = (
            tuple(node for node in todo if isinstance(node, _ByteNode)), tuple(n.rule for n in todo if n.rule >= 0)
        )  # fmt: skip
        return self.reach


class _ByteNode(_Node):
    """Consumes a byte that `accepts` is not 0 at, and goes on to `after`."""

    __slots__ = ("accepts", "after")

    def __init__(self, accepts: bytes, after: _Node) -> None:
        super().__init__()
        self.accepts = accepts
        self.after = after


@lru_cache(maxsize=512)
def _table(members: frozenset[int]) -> bytes:
    """256 bytes, those at `members` not 0: much smaller than a large set, and there may be many."""
    table = bytearray(256)
    for byte in members:
        table[byte] = 1
    return bytes(table)


class _Builder:
    """Turns the tree of one expression into nodes, from its end to its beginning."""

    def __init__(self) -> None:
        self.count = 0

    def node(self, rule: int = -1) -> _Node:
        self._count()
        return _Node(rule)

    def _count(self) -> None:
        self.count += 1
        if self.count > NODES_MAX:
            raise RegexError(f"needs more than {NODES_MAX} nodes")

    def build(self, tree: Tree, after: _Node) -> _Node:
        self._count()
        if isinstance(tree, Set):
            return _ByteNode(_table(tree.members), after)
        if isinstance(tree, Sequence):
            for part in reversed(tree.parts):
                after = self.build(part, after)
            return after
        if isinstance(tree, Repeat):
            return self._repeat(tree, after)
        if isinstance(tree, Start):
            raise RegexError("has '^' elsewhere than at its beginning")
        start = self.node()
        if isinstance(tree, Choice):
            start.branches = [self.build(choice, after) for choice in tree.choices]
        return start  # a Never leads nowhere

    def _repeat(self, tree: Repeat, after: _Node) -> _Node:
        if tree.most is None:
            loop = self.node()
            loop.branches = [self.build(tree.atom, loop), after]
            after = loop
        else:
            end = after
            for _ in range(tree.most - tree.least):
                option = self.node()
                option.branches = [self.build(tree.atom, after), end]
                after = option
        for _ in range(tree.least):
            after = self.build(tree.atom, after)
        return after


class _Prefix:
    """A place in the trie of what expressions literally begin with."""

    __slots__ = ("children", "starts")

    def __init__(self) -> None:
        self.children: dict[int, _Prefix] = {}
        self.starts: list[_Node] = []


class State:
    """Where all expressions are after the same bytes."""

    __slots__ = ("after", "matches", "nodes", "prefix")

    def __init__(self, prefix: _Prefix | None, nodes: frozenset[_ByteNode], matches: tuple[int, ...]) -> None:
        self.prefix = prefix
        self.nodes = nodes
        self.matches = matches
        """The rules that match the bytes so far, the last first, without those that another is always preferred to."""
        self.after: dict[int, State] = {}


class Matcher:
    """Rules are numbered in the order in which they are added; add all before the first match."""

    def __init__(self) -> None:
        self._kinds: list[int] = []
        self._nodes = 0
        self._top = _Prefix()
        self._states: dict[tuple[_Prefix | None, frozenset[_ByteNode], tuple[int, ...]], State] = {}
        self._cached = 0
        self._reached = 0
        self.work = 0
        """How many nodes were looked at."""

    def add(self, expression: str, kind: int = 0) -> None:
        """Add a rule for files of one kind, or of every kind if that is 0.

        Raises RegexError, whose message is a predicate such as "has an unclosed '('".
        """
        literal, rest = _split_literal(parse(expression))
        builder = _Builder()
        start = builder.build(rest, builder.node(len(self._kinds)))
        self._nodes += builder.count + len(literal)
        if self._nodes > ALL_NODES_MAX:
            raise RegexError(f"brings all expressions to more than {ALL_NODES_MAX} nodes")
        place = self._top
        for byte in literal:
            child = place.children.get(byte)
            if child is None:
                child = place.children[byte] = _Prefix()
            place = child
        place.starts.append(start)
        self._kinds.append(kind)

    def start(self) -> State:
        """The state before the first byte."""
        return self._state(self._top, [])

    def feed(self, state: State, data: bytes) -> State:
        """The state after `data`. Raises TooMuchWork."""
        for byte in data:
            following = state.after.get(byte)
            if following is None:
                following = self._follow(state, byte)
            state = following
        return state

    def _follow(self, state: State, byte: int) -> State:
        self.work += len(state.nodes) + 1
        if self.work > WORK_MAX:
            raise TooMuchWork
        prefix = state.prefix.children.get(byte) if state.prefix is not None else None
        entered = [node.after for node in state.nodes if node.accepts[byte]]
        following = self._state(prefix, entered)
        state.after[byte] = following
        return following

    def _state(self, prefix: _Prefix | None, entered: list[_Node]) -> State:
        nodes: set[_ByteNode] = set()
        matches: set[int] = set()
        for node in entered if prefix is None else entered + prefix.starts:
            consuming, rules = node.reach or self._reach(node)
            self.work += len(consuming) + len(rules)
            nodes.update(consuming)
            matches.update(rules)
        key = (prefix, frozenset(nodes), self._winners(matches))
        state = self._states.get(key)
        if state is None:
            self._cached += len(nodes) + 10
            if self._cached > CACHE_MAX:
                for old in self._states.values():
                    old.after.clear()
                self._states.clear()
                self._cached = 0
            state = self._states[key] = State(*key)
        return state

    def _reach(self, node: _Node) -> _Reach:
        reach = node.find_reach()
        self._reached += len(reach[0]) + len(reach[1])
        if self._reached > REACH_MAX:
            raise TooMuchWork
        return reach

    def _winners(self, matches: set[int]) -> tuple[int, ...]:
        winners: list[int] = []
        kinds: set[int] = set()
        for rule in sorted(matches, reverse=True):
            kind = self._kinds[rule]
            if kind not in kinds:
                winners.append(rule)
                kinds.add(kind)
                if not kind:
                    break
        return tuple(winners)


def _split_literal(tree: Tree) -> tuple[bytes, Tree]:
    """The bytes that every match begins with, as far as they are plain to see, and what follows them."""
    literal = bytearray()
    parts = list(_flat(tree))
    for at, part in enumerate(parts):
        if isinstance(part, Start) and not literal:
            continue
        if not isinstance(part, Set) or len(part.members) != 1:
            return bytes(literal), Sequence(tuple(parts[at:]))
        literal += bytes(part.members)
    return bytes(literal), Sequence(())


def _flat(tree: Tree) -> Iterable[Tree]:
    """The parts of a sequence, with those of the groups among them that are sequences."""
    if not isinstance(tree, Sequence):
        yield tree
        return
    for part in tree.parts:
        yield from _flat(part)
