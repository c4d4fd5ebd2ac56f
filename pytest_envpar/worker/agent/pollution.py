"""What each test left on the file system, and which failing test met what an earlier one had left.

Looks are taken after a test's teardown, and around the setup of fixtures of a wider scope: what those made belongs to
them, and counts only if it outlives them.
"""

import itertools
import os
import re
import tempfile
from typing import Any, Dict, Generator, Iterator, List, Optional, Set, Tuple

import pytest

from . import wire
from .aftermath import Aftermath
from .audit import Audit, difference
from .channel import Channel
from .tree import Change, Tree, places

LISTED = 500
LISTED_BYTES = 1 << 16
"""How many paths of one test are told by name, and how long they may be together; the others are counted."""
MAX_LEFT = 1 << 17
"""How many paths are kept in mind in all; more are counted and forgotten."""
MAX_NAMED = 2000
"""In how many of them the text of a failure is searched for the path."""
MAX_LINES = 10
TITLE = "envpar pollution"
_LONGER = re.compile(r"[\w/-]|\.\w")
"""What a path goes on with."""
_KINDS = ("created", "changed", "deleted")


class Owner:
    """A test, a fixture, or what runs outside of both. It changes as more is found.

    Args:
        index: The test; -1 for anything else.
        name: What a failing test is told of it: a node id, or words.
    """

    def __init__(self, index: int, name: str, fixture: bool = False) -> None:
        self.index = index
        self.name = name
        self.lives = fixture
        """A fixture that is still set up: what it made is as it should be."""
        self.paths: Dict[bytes, None] = {}
        self.more = dict.fromkeys(_KINDS, 0)
        self.touched: Dict[bytes, Tuple[str, Left]] = {}
        self.untold: Set[bytes] = set()
        """What a failing test met beside that."""


class Left:
    """One path that is not as it was when the suite began, who did it, and whether it was there at all then."""

    def __init__(
        self,
        kind: str,
        owner: Owner,
        born: bool,
        attributes: Tuple[str, ...] = (),
        under: Optional[Owner] = None,
    ) -> None:
        self.kind = kind
        self.owner = owner
        self.born = born
        self.attributes = attributes
        self.under = under
        """The fixture whose path it is."""


class Pollution:
    """The plugin. It is there only if the run was asked for it.

    Args:
        channel: Where frames go.
        options: Those of :class:`wire.Init`; ``pollution`` holds ``left`` (what earlier workers of the run told),
            ``died`` (the test that the last one died of) and ``state`` (where to keep what the next one has to know).
    """

    def __init__(self, channel: Channel, options: Dict[str, Any]) -> None:
        self._channel = channel
        self._indices: Dict[Any, int] = {}
        self._owner = Owner(-1, "the start of the session")
        self._fixtures: Dict[Any, Owner] = {}
        self._tree = Tree(
            *places((options["root"], os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir()))
        )
        told = options["pollution"]
        self._audit = Audit(self._tree, os.fsencode(options["root"]), os.fsencode(told["state"]))
        for kind, path, name in told["left"]:
            self._watch_for(os.fsencode(path), Left(kind, Owner(-1, name), kind == "created"))
        self._aftermath = Aftermath(told["state"])
        recalled = self._aftermath.recall() if self._tree.names else None
        self._died: Optional[Owner] = None
        if recalled is not None:
            name = told["died"]
            self._died = Owner(-1, "%s (its worker died)" % name if name else "what ran when the worker died")
            for change in list(self._tree.since(recalled.names, recalled.since)):
                self._take(change, self._died)
        self._aftermath.begin(self._tree.names)
        self._audit.install()

    # --- when to look --------------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: Any) -> None:
        self._indices = {item: index for index, item in enumerate(session.items)}
        if self._died is not None:
            self._tell(self._died)
        self._end(self._owner)
        self._owner = Owner(-1, "what ran between the tests")

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> Generator[None, Any, None]:
        self._end(self._owner)
        if self._tree.opened:
            self._tree.drain()  # our own looking is no evidence
            self._tree.opened.clear()
        self._audit.clear()
        self._owner = Owner(self._indices.get(item, -1), item.nodeid)
        yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, None]:
        if fixturedef.scope == "function":
            yield
            return
        self._look(self._owner)
        name = "%s fixture %s, set up for %s" % (fixturedef.scope, fixturedef.argname, self._owner.name)
        owner = self._fixtures[fixturedef] = Owner(-1, name, fixture=True)
        yield
        self._look(owner)

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        owner = self._fixtures.pop(fixturedef, None)
        if owner is not None:
            self._look(self._owner)
            owner.lives = False
            self._tell(owner)

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, call: Any) -> Generator[None, Any, None]:
        met: Dict[bytes, str] = {}
        if call.excinfo is not None and self._channel.ours and self._audit.left:
            # Now: to tell of the failure, pytest reads files itself.
            met = self._met()
        outcome = yield
        if not self._channel.ours:
            return
        if call.excinfo is not None and outcome.excinfo is None and self._audit.left:
            report = outcome.get_result()
            if report.failed:
                lines = self._evidence(met, report)
                if lines:
                    report.sections.append((TITLE, "\n".join(lines)))
        if call.when == "teardown":
            self._end(self._owner)
            self._owner = Owner(-1, "what ran between the tests")

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> Generator[None, Any, None]:
        yield
        self._owner.name = "the end of the session"
        self._end(self._owner)
        for owner in self._fixtures.values():
            self._tell(owner)
        if self._tree.problem:
            self._channel.send(wire.Pollution(-1, {"problem": self._tree.problem}))

    # --- looking -------------------------------------------------------------------------------------------------

    def _end(self, owner: Owner) -> None:
        if self._channel.ours:
            self._look(owner)
            if owner.paths or owner.touched or any(owner.more.values()):
                self._tell(owner)

    def _look(self, owner: Owner) -> None:
        """Take in what is not as it was, and who did it."""
        tree = self._tree
        if tree.quiet():
            return
        if not tree.complete:
            for change in self._noted():
                self._take(change, owner)
        changes = list(tree.changes())
        for change in changes:
            self._take(change, owner)
        self._aftermath.note(changes)

    def _noted(self) -> Iterator[Change]:
        """What the kernel tells nothing of, and the test process has done itself."""
        for path, bits in sorted(self._tree.touched.items()):
            if self._tree.knows(path.rpartition(b"/")[0]) or path not in self._audit.before:
                continue
            before = self._audit.before[path]
            try:
                now: Optional[os.stat_result] = os.lstat(path)
            except OSError:
                now = None
            if now is None and before is not None:
                yield Change("deleted", path, bits, None)
            elif now is not None:
                yield Change("created" if before is None else "changed", path, bits, now)

    def _take(self, change: Change, owner: Owner) -> None:
        kind, path = change.kind, change.path
        left = self._audit.left
        prior: Optional[Left] = left.get(path)
        attributes: Tuple[str, ...] = ()
        if kind == "changed":
            attributes = difference(change, self._audit.before.get(path))
            if not attributes:
                return
            if prior is not None and prior.owner is owner and prior.kind == "created":
                return
        born = prior.born if prior is not None else kind == "created"
        if prior is not None:
            prior.owner.paths.pop(path, None)
            if kind == "deleted" and born:
                self._audit.forget(path)  # it was not there before the suite, and is not now
                return
            if kind == "created" and prior.owner is owner:
                kind, attributes = "changed", ("content",)  # deleted before, by the same
        if len(left) >= MAX_LEFT and prior is None:
            owner.more[kind] += 1
            return
        under = self._fixture_of(path, prior) if self._fixtures and not owner.lives else None
        owner.paths[path] = None
        self._watch_for(path, Left(kind, owner, born, attributes, under))

    def _fixture_of(self, path: bytes, prior: Optional[Left]) -> Optional[Owner]:
        """The living fixture that made the path, or a folder above it."""
        while prior is None and path:
            path = path.rpartition(b"/")[0]
            prior = self._audit.left.get(path)
        if prior is None:
            return None
        return prior.owner if prior.owner.lives else prior.under

    def _watch_for(self, path: bytes, left: Left) -> None:
        self._audit.look_out(path, left)
        self._tree.heed(path)

    def _tell(self, owner: Owner) -> None:
        """Send what is left of what an owner did."""
        left = self._audit.left
        counts = dict(owner.more)
        paths: List[List[Any]] = []
        room = LISTED_BYTES
        for path in sorted(owner.paths):
            found: Left = left[path]
            if found.under is not None and found.under.lives:
                continue
            counts[found.kind] += 1
            room -= len(path)
            if len(paths) < LISTED and room >= 0:
                paths.append([found.kind, os.fsdecode(path), list(found.attributes)])
        touched = [
            [did, os.fsdecode(path), each.kind, each.owner.name]
            for path, (did, each) in owner.touched.items()
        ]
        if paths or touched or any(counts.values()):
            name = "" if owner.index >= 0 else owner.name
            fields = {
                "owner": name,
                "counts": counts,
                "paths": paths,
                "touched": touched,
                "untold": len(owner.untold),
            }
            self._channel.send(wire.Pollution(owner.index, fields))
        if owner.index >= 0 or not owner.lives:
            owner.paths = {}
            owner.more = dict.fromkeys(_KINDS, 0)

    # --- evidence ------------------------------------------------------------------------------------------------

    def _met(self) -> Dict[bytes, str]:
        """Paths that were left, with which the test has done something, and what."""
        self._tree.drain()
        met = dict(self._audit.seen)
        for path in self._tree.opened:
            if path in self._audit.left:
                met.setdefault(path, "opened")
        return met

    def _evidence(self, met: Dict[bytes, str], report: Any) -> List[str]:
        """What the failing test met of what earlier ones have left, in words."""
        owner = self._owner
        for path in self._named(report):
            met.setdefault(path, "named")
        found: Dict[bytes, Tuple[str, Left]] = {}
        for path, did in sorted(met.items()):
            left = self._audit.left.get(path)
            if left is None or left.owner is owner or left.owner.lives or path in owner.touched:
                continue
            found[path] = (did, left)
        told = list(found.items())[:MAX_LINES]
        lines = [_line(did, path, left) for path, (did, left) in told]
        if len(found) > MAX_LINES:
            lines.append("and %d more paths" % (len(found) - MAX_LINES))
        owner.touched.update(told)
        owner.untold = (owner.untold | found.keys()) - owner.touched.keys()
        return lines

    def _named(self, report: Any) -> Iterator[bytes]:
        """Paths that the failure's text names: Python tells nobody when it looks whether a file is there."""
        try:
            text = str(report.longreprtext)
        except Exception:  # noqa: BLE001 - an object of some plugin
            return
        for path in itertools.islice(self._audit.left, MAX_NAMED):
            name = os.fsdecode(path)
            at = text.find(name)
            while at >= 0:
                end = at + len(name)
                if not _LONGER.match(text, end):
                    yield path
                    break
                at = text.find(name, end)


def _line(did: str, path: bytes, left: Left) -> str:
    shown = escaped(os.fsdecode(path))
    by = "which %s %s" % (left.owner.name, left.kind)
    if did == "named":
        return "the failure names %s, %s" % (shown, by)
    if did == "listed":
        return "the test listed the folder of %s, %s" % (shown, by)
    return "the test %s %s, %s" % (did, shown, by)


def escaped(text: str) -> str:
    """A name of a file as one harmless line."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode("ascii")
        for sign in text
    )
