"""Rewrite Python sources so that packages live under one private name.

What we bring into a container must not become importable by the code under test, so the dependencies of
pytest are moved below :data:`PRIVATE` and every import of them is edited in the source text. Edits are
located with the syntax tree and keep every line number, so tracebacks still fit the original sources.
:func:`leftovers` proves afterwards that no import of a moved name is left. Everything here is a pure
function of source texts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

PRIVATE = "_envpar_deps"
"""The package that holds what we bring for our own use."""

PUBLIC = frozenset({"pytest", "exceptiongroup"})
"""Distributions that keep their own names."""

_OPTIONAL = frozenset({"colorama", "tomli", "typing_extensions"})
_PYGMENTS_ROOTS = frozenset(
    {
        "pygments.formatters._mapping",
        "pygments.formatters.terminal",
        "pygments.lexers._mapping",
        "pygments.lexers.diff",
        "pygments.lexers.python",
    }
)

Tree = Mapping[PurePosixPath, bytes]
"""Source files by their path below the folder that goes on ``sys.path``."""

_GAP = rb"(?:[ \t\f]|\\\r?\n)+"
_IMPORTING_CALLS = frozenset({"import_module", "__import__", "find_spec", "importorskip"})
_MODULE_TABLE_CALLS = frozenset({"get", "pop", "setdefault"})
# Words of the sources that name a module as data, for example in the lexer tables of pygments. Rewriting all
# strings of this form also renames entry point groups: plugins of the image's own pygments stay with that
# one.
_DOTTED = re.compile(r"\w+(?:\.\w+)*\.?")


class RewriteError(ValueError):
    """A source text has an import that cannot be moved without changing line numbers."""


class _Edit(NamedTuple):
    start: int
    end: int
    text: bytes


def rewrite(
    source: bytes,
    names: Collection[str],
    versions: Mapping[str, str],
    *,
    strings_of: str = "",
    private: str = PRIVATE,
) -> bytes:
    """Move every absolute import of ``names`` below the package ``private``.

    Args:
        source: A module's source in UTF-8.
        names: Top-level packages that have moved.
        versions: Version by distribution name; ``version("NAME")`` calls become the literal, because no
        metadata is
            shipped.
        strings_of: A package whose dotted module names in plain strings are moved too
        (``"pygments.styles."``).

    Returns:
        The new source, with the same number of lines.

    Raises:
        RewriteError: An import has a form that cannot be edited.
        SyntaxError: ``source`` does not parse on this Python.
    """
    if not any(name.encode() in source for name in names):
        return source
    tree = ast.parse(source)
    offsets = _line_offsets(source)

    def span(node: ast.stmt | ast.expr) -> tuple[int, int]:
        if node.end_lineno is None or node.end_col_offset is None:
            raise RewriteError(f"line {node.lineno}: the end of a statement is not known")
        return offsets[node.lineno - 1] + node.col_offset, offsets[node.end_lineno - 1] + node.end_col_offset

    edits: list[_Edit] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases) if any(_top(alias.name) in names for alias in aliases):
                edits.append(_moved_import(source, *span(node), aliases, names, private))
            case ast.ImportFrom(module=str(module), level=0) if _top(module) in names:
                edits.append(_moved_from(source, *span(node), module, private))
            case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if (
                _called(func) == "version" and name in versions
            ):
                edits.append(_Edit(*span(node), _padded(source, *span(node), repr(versions[name]).encode())))
    strings = list(_module_strings(tree, names, strings_of))
    edits += [_moved_string(source, *span(node), str(node.value), private) for node in strings]
    return _applied(source, edits)


def leftovers(source: bytes, names: Collection[str]) -> list[str]:
    """Absolute imports of ``names`` that are still in ``source``, as ``line N: NAME``; empty if clean."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                found += [(node.lineno, alias.name) for alias in aliases if _top(alias.name) in names]
            case ast.ImportFrom(module=str(module), level=0) if _top(module) in names:
                found.append((node.lineno, module))
    found += [(node.lineno, str(node.value)) for node in _module_strings(tree, names, "")]
    return [f"line {line}: {name}" for line, name in sorted(found)]


def private_site(sources: Mapping[str, Tree], versions: Mapping[str, str]) -> dict[PurePosixPath, bytes]:
    """What goes on ``sys.path`` inside: pytest under its own name, what it needs under the private one.

    ``exceptiongroup`` stays public where it is brought in (below Python 3.11): user code and pytest must see
    one class ``ExceptionGroup``, or ``except`` and ``isinstance`` stop working.

    Args:
        sources: Sources by distribution name.
        versions: Version by distribution name.

    Raises:
        RewriteError: A source cannot be moved, or still imports a moved name afterwards.
    """
    private = {name: tree for name, tree in sources.items() if name not in PUBLIC}
    # Names that are not brought in move as well: an optional import must not find the image's own package, of
    # whatever version that may be.
    names = {path.parts[0].removesuffix(".py") for tree in private.values() for path in tree} | _OPTIONAL
    site = {PurePosixPath(PRIVATE, "__init__.py"): b""}
    for name, tree in sources.items():
        needed = closure(tree, _PYGMENTS_ROOTS | _styles(tree)) if name == "pygments" else tree
        for path, source in needed.items():
            try:
                moved = rewrite(source, names, versions, strings_of="pygments" if name == "pygments" else "")
                left = leftovers(moved, names)
            except (RewriteError, SyntaxError) as error:
                raise RewriteError(f"{path}: {error}") from error
            if left or moved.count(b"\n") != source.count(b"\n"):
                raise RewriteError(f"{path}: an import could not be moved: {', '.join(left)}")
            site[path if name in PUBLIC else PurePosixPath(PRIVATE, path)] = moved
    return site


def private_package(tree: Tree, name: str, private: str) -> dict[PurePosixPath, bytes]:
    """One distribution of pure Python below ``private``, importing itself from there and the rest from where it is.

    Args:
        tree: Its sources.
        name: Its top-level package.

    Raises:
        RewriteError: A source cannot be moved, or still imports itself by its public name afterwards.
    """
    site = {PurePosixPath(private, "__init__.py"): b""}
    for path, source in tree.items():
        try:
            moved = rewrite(source, {name}, {}, private=private)
            left = leftovers(moved, {name})
        except (RewriteError, SyntaxError) as error:
            raise RewriteError(f"{path}: {error}") from error
        if left or moved.count(b"\n") != source.count(b"\n"):
            raise RewriteError(f"{path}: an import could not be moved: {', '.join(left)}")
        site[PurePosixPath(private, path)] = moved
    return site


def _styles(pygments: Tree) -> set[str]:
    # The style is the user's choice (PYTEST_THEME), looked up by name at run time.
    return {_module_name(path) for path in pygments if path.parts[:2] == ("pygments", "styles")}


def closure(tree: Tree, roots: Collection[str]) -> dict[PurePosixPath, bytes]:
    """The part of ``tree`` that the modules ``roots`` (dotted names) need, by following its import
    statements.

    Packages around a needed module are included. Names that ``tree`` does not have are left to others.
    """
    modules = {_module_name(path): path for path in tree if path.suffix == ".py"}
    wanted: set[str] = set()
    todo = list(roots)
    while todo:
        name = todo.pop()
        if not name or name in wanted or name not in modules:
            continue
        wanted.add(name)
        path = modules[name]
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        todo.append(name.rpartition(".")[0])
        todo += _imported(ast.parse(tree[path]), package)
    return {modules[name]: tree[modules[name]] for name in sorted(wanted)}


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _module_name(path: PurePosixPath) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _called(func: ast.expr) -> str:
    match func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _module_strings(tree: ast.Module, names: Collection[str], strings_of: str) -> Iterator[ast.Constant]:
    """String constants that name a moved module where Python will import it or look it up."""
    in_f_strings = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
    }
    seen: set[int] = set()
    for node in ast.walk(tree):
        candidates: list[ast.expr] = []
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="modules"), attr=method), args=args):
                candidates = args[:1] if method in _MODULE_TABLE_CALLS else []
            case ast.Call(func=func, args=args):
                candidates = args[:1] if _called(func) in _IMPORTING_CALLS else []
            case ast.Subscript(value=ast.Attribute(attr="modules"), slice=index):
                candidates = [index]
            case ast.Compare(left=left, comparators=[ast.Attribute(attr="modules")]):
                candidates = [left]
            case ast.Constant(value=str(text)) if strings_of and "." in text and _top(text) == strings_of:
                candidates = [node] if id(node) not in in_f_strings else []
            case _:
                pass
        for constant in candidates:
            match constant:
                case ast.Constant(value=str(text)) if _DOTTED.fullmatch(text) and _top(text) in names:
                    if id(constant) not in seen:
                        seen.add(id(constant))
                        yield constant
                case _:
                    pass


def _moved_import(
    source: bytes, start: int, end: int, aliases: list[ast.alias], names: Collection[str], private: str
) -> _Edit:
    statements = []
    for alias in aliases:
        top = _top(alias.name)
        if top not in names:
            statements.append(f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        elif alias.asname or "." not in alias.name:
            # "as" also for a plain name: "import _envpar_deps.x" would bind the private package instead of x.
            statements.append(f"import {private}.{alias.name} as {alias.asname or alias.name}")
        else:
            statements.append(f"import {private}.{alias.name}, {private}.{top} as {top}")
    return _Edit(start, end, _padded(source, start, end, "; ".join(statements).encode()))


def _moved_from(source: bytes, start: int, end: int, module: str, private: str) -> _Edit:
    found = re.compile(rb"from" + _GAP + rb"(?=" + re.escape(module.encode()) + rb"\b)").match(
        source, start, end
    )
    if found is None:
        raise RewriteError(f"cannot find {module!r} in {source[start:end]!r}")
    return _Edit(found.end(), found.end(), private.encode() + b".")


def _moved_string(source: bytes, start: int, end: int, text: str, private: str) -> _Edit:
    literal = source[start:end]
    at = literal.find(text.encode())
    if at < 0 or literal.count(text.encode()) != 1:
        raise RewriteError(f"cannot move the module name in {literal!r}")
    return _Edit(start + at, start + at, private.encode() + b".")


def _padded(source: bytes, start: int, end: int, text: bytes) -> bytes:
    """``text`` with as many lines as what it replaces; parentheses are what can span lines."""
    newlines = source.count(b"\n", start, end)
    if not newlines:
        return text
    if text.startswith(b"import"):
        return text + b"; (" + b"\n" * newlines + b")"
    return b"(" + text + b"\n" * newlines + b")"


def _applied(source: bytes, edits: list[_Edit]) -> bytes:
    pieces: list[bytes] = []
    at = 0
    for start, end, text in sorted(edits):
        if start < at:
            raise RewriteError(f"two edits meet at byte {start}")
        pieces += [source[at:start], text]
        at = end
    return b"".join([*pieces, source[at:]])


def _line_offsets(source: bytes) -> list[int]:
    """Byte offset of each line as the parser counts: form feeds do not end a line, a BOM is skipped."""
    first = 3 if source.startswith(b"\xef\xbb\xbf") else 0
    return [first, *(found.end() for found in re.finditer(rb"\r\n|\r|\n", source))]
