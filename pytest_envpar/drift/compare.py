"""The comparison: two streams of entries in tree order, and what differs between them.

Pure and streaming: no more than one entry of either side is held, so that memory does not grow with the trees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_envpar.drift import records
from pytest_envpar.drift.model import Change
from pytest_envpar.drift.records import DIGEST, KIND, MTIME, PATH, Record, order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_envpar.drift.model import Attribute, Entry

_SECOND = 1_000_000_000


def compare(
    left: Iterable[Entry],
    right: Iterable[Entry],
    *,
    mtime: bool = False,
    unread: Callable[[str], None] | None = None,
) -> Iterator[Change]:
    """What differs between two file systems.

    Args:
        left: Entries in the order of :func:`~pytest_envpar.drift.model.sort_key`, each path once.
        mtime: Whether times of modification count. They are compared to the second where one side has no finer one
            (most archives).
        unread: Told the path of a file of which one side has no digest, so that its content is not compared.

    Returns:
        Changes in the order of their paths. A type that differs is one change: what else differs follows from it.
    """
    return compare_records(map(records.record, left), map(records.record, right), mtime=mtime, unread=unread)


def compare_records(
    left: Iterable[Record],
    right: Iterable[Record],
    *,
    mtime: bool = False,
    unread: Callable[[str], None] | None = None,
) -> Iterator[Change]:
    """:func:`compare` for records; only those that differ become entries."""
    lefts, rights = iter(left), iter(right)
    one, two = next(lefts, None), next(rights, None)
    while one is not None and two is not None:
        if one[PATH] == two[PATH]:
            change = difference(one, two, mtime=mtime, unread=unread)
            if change is not None:
                yield change
            one, two = next(lefts, None), next(rights, None)
        elif order(one[PATH]) < order(two[PATH]):
            yield Change(one[PATH], "removed", before=records.entry(one))
            one = next(lefts, None)
        else:
            yield Change(two[PATH], "added", after=records.entry(two))
            two = next(rights, None)
    while one is not None:
        yield Change(one[PATH], "removed", before=records.entry(one))
        one = next(lefts, None)
    while two is not None:
        yield Change(two[PATH], "added", after=records.entry(two))
        two = next(rights, None)


def difference(
    left: Record | None,
    right: Record | None,
    *,
    mtime: bool = False,
    unread: Callable[[str], None] | None = None,
) -> Change | None:
    """What differs at one path; ``None`` stands for a side that does not have it."""
    if left is None or right is None:
        if left is not None:
            return Change(left[PATH], "removed", before=records.entry(left))
        if right is not None:
            return Change(right[PATH], "added", after=records.entry(right))
        return None
    unknown = left[KIND][0] == right[KIND][0] == "f" and not (left[DIGEST] and right[DIGEST])
    if left[:MTIME] == right[:MTIME] and not unknown and not mtime:
        return None
    before, after = records.entry(left), records.entry(right)
    if unknown and unread is not None:
        unread(left[PATH])
    attributes = tuple(_differing(before, after, mtime=mtime, unknown=unknown))
    return Change(left[PATH], "modified", attributes, before, after) if attributes else None


def _differing(before: Entry, after: Entry, *, mtime: bool, unknown: bool) -> Iterator[Attribute]:
    """In the order of :data:`~pytest_envpar.drift.model.Attribute`."""
    same_type = before.type == after.type
    if same_type and (before.size != after.size or (before.digest != after.digest and not unknown)):
        yield "content"
    # Links have no permissions of their own; what stands there is the file system's habit.
    if before.mode != after.mode and same_type and before.type != "link":
        yield "mode"
    if (before.uid, before.gid) != (after.uid, after.gid):
        yield "owner"
    if same_type and before.target != after.target:
        yield "target"
    if not same_type:
        yield "type"
    if same_type and before.device != after.device:
        yield "device"
    if before.xattrs != after.xattrs:
        yield "xattr"
    if before.hardlink != after.hardlink:
        yield "hardlink"
    if mtime and not _same_time(before.mtime_ns, after.mtime_ns):
        yield "mtime"


def _same_time(one: int, two: int) -> bool:
    if one % _SECOND and two % _SECOND:
        return one == two
    return one // _SECOND == two // _SECOND
