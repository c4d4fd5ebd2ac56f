"""Virtual items: what was collected inside, as nodes of an ordinary pytest session on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_envpar.session.names import shown
from pytest_envpar.worker.agent import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


class VirtualCollector(pytest.Collector):
    """A directory, file or class inside. It collects nothing: its items are made with it."""

    shown: str = ""
    obj: Any = None

    def __repr__(self) -> str:
        return self.shown

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Nothing: collection has happened inside."""
        return []


class VirtualItem(pytest.Item):
    """A test inside. ``index`` is its place in what the worker collected."""

    index: int = -1
    stage: str | None = None
    """The stage it runs in, if the run has several."""
    shown: str = ""
    """How it is listed, if not as the usual function."""
    obj: Any = None
    _keywords_seen: Mapping[str, int] | None = None
    _where: tuple[str, int | None, str] = ("", None, "")

    def __repr__(self) -> str:
        return self.shown or _function(self.name)

    @property
    def keywords_seen(self) -> Mapping[str, int]:
        """Keywords as a report carries them. One mapping for all reports: there may be very many tests."""
        if self._keywords_seen is None:
            self._keywords_seen = dict.fromkeys(self.keywords, 1)
        return self._keywords_seen

    @property
    def location(self) -> tuple[str, int | None, str]:
        """Relative path, line number from 0, and name, as the inside told them."""
        return self._where

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Path, line number and name."""
        path, line, domain = self._where
        return self.config.rootpath / path, line, domain

    def runtest(self) -> None:
        """Never called: the session plugin takes the whole protocol over."""
        raise RuntimeError("a virtual item runs inside its stage")


class _Documented:
    """Carries a docstring for ``--collect-only -v``."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc


class Collection:
    """The nodes of one worker's collection.

    Args:
        session: The host's session.
        message: What the worker told.
        stage: The stage, if the run has several: its node ids carry it as a suffix.
    """

    def __init__(self, session: pytest.Session, message: wire.Collected, stage: str | None = None) -> None:
        self._stage = stage
        self._suffix = f"@{stage}" if stage else ""
        self._rows = message.nodes
        self._nodes: dict[int, pytest.Collector] = {-1: self._top(session, stage)}
        self._marks = [_mark(row) for row in message.marks]
        self._root = session.config.rootpath
        # Rows repeat what is the same for all tests of a file; items share it.
        self._paths: dict[str, str] = {}
        items = [self._item(index, row) for index, row in enumerate(message.items)]
        split = len(items) - message.deselected
        self.items: list[VirtualItem] = items[:split]
        self.deselected: list[VirtualItem] = items[split:]

    def by_parent(self) -> list[tuple[pytest.Collector, list[VirtualItem]]]:
        """All items, deselected ones included, below the collector that holds them."""
        groups: dict[pytest.Collector, list[VirtualItem]] = {}
        for item in [*self.items, *self.deselected]:
            parent = item.parent
            assert isinstance(parent, pytest.Collector)
            groups.setdefault(parent, []).append(item)
        return list(groups.items())

    def _top(self, session: pytest.Session, stage: str | None) -> pytest.Collector:
        if stage is None:
            return session
        top: VirtualCollector = VirtualCollector.from_parent(
            session, name=stage, nodeid=self._suffix, path=session.path
        )
        top.shown = f"<Stage {stage}>"
        return top

    def bare(self, item: VirtualItem) -> str:
        """The item's node id as the inside knows it."""
        return item.nodeid.removesuffix(self._suffix)

    def _collector(self, row: int) -> pytest.Collector:
        node = self._nodes.get(row)
        if node is None:
            parent, text, name, nodeid, doc = self._rows[row]
            name, nodeid = shown(name), shown(nodeid)
            if not -1 <= parent < row:
                raise wire.WireError(f"node {row} has no parent before it")
            collector: VirtualCollector = VirtualCollector.from_parent(
                self._collector(parent),
                name=name,
                nodeid=nodeid + self._suffix,
                path=self._root / nodeid.split("::", 1)[0],
            )
            collector.shown = shown(text)
            collector.obj = _Documented(doc) if doc else None
            self._nodes[row] = node = collector
        return node

    def _item(self, index: int, row: Sequence[Any]) -> VirtualItem:
        number, text, name, nodeid, doc, location, keywords, marks = row
        name = shown(name)
        parent = self._collector(number)
        named: dict[
            str, str
        ] = {}  # left to pytest where its own id is the same: it shares the parent's parts
        if nodeid is not None or number < 0 or self._suffix:
            if nodeid is None:
                nodeid = f"{self._rows[number][3] if number >= 0 else ''}::{name}"
            named["nodeid"] = shown(nodeid) + self._suffix
        item: VirtualItem = VirtualItem.from_parent(parent, name=name, **named)
        item.index = index
        if self._stage is not None:
            item.stage = self._stage
        text = shown(text)
        if text != _function(name):
            item.shown = text
        path, place = shown(location[0]), shown(location[2]) + self._suffix
        item._where = (self._paths.setdefault(path, path), location[1], name if place == name else place)
        if doc:
            item.obj = _Documented(doc)
        if keywords:
            item.extra_keyword_matches.update(keywords)
        for mark in marks:
            restored = self._marks[mark]
            item.own_markers.append(restored)
            item.keywords[restored.name] = restored
        return item


def _function(name: str) -> str:
    return f"<Function {name}>"


def _mark(row: Sequence[Any]) -> pytest.Mark:
    name, args, kwargs = row
    return pytest.Mark(name, tuple(args), kwargs, _ispytest=True)
