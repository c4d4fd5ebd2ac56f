"""Collected items as rows of plain data: the host builds its virtual items from them."""

import inspect
import json
from typing import Any, Dict, List, Optional

# Their arguments are of no use outside, or would make the host import what exists only inside.
_WITHOUT_ARGUMENTS = ("parametrize", "usefixtures", "skipif", "xfail", "hypothesis")
_LEFT_OUT = ("filterwarnings",)


class Describer:
    """Gathers rows; see :class:`wire.Collected` for their shapes."""

    def __init__(self, with_docs: bool) -> None:
        self.nodes: List[List[Any]] = []
        self.marks: List[List[Any]] = []
        self._with_docs = with_docs
        self._node_rows: Dict[Any, int] = {}
        self._mark_rows: Dict[str, int] = {}

    def item(self, item: Any) -> List[Any]:
        parent = self._node(item.parent)
        path, line, domain = item.location
        nodeid = item.nodeid
        if parent >= 0 and nodeid == "%s::%s" % (self.nodes[parent][3], item.name):
            nodeid = None
        keywords = sorted(item.extra_keyword_matches) if item.extra_keyword_matches else None
        marks = [row for row in map(self._mark, item.iter_markers()) if row >= 0]
        return [parent, repr(item), item.name, nodeid, self._doc(item), [path, line, domain], keywords, marks]

    def _node(self, node: Any) -> int:
        if node is None or node.parent is None:
            return -1
        row = self._node_rows.get(node)
        if row is None:
            parent = self._node(node.parent)
            row = self._node_rows[node] = len(self.nodes)
            self.nodes.append([parent, repr(node), node.name, node.nodeid, self._doc(node)])
        return row

    def _doc(self, node: Any) -> Optional[str]:
        if not self._with_docs:
            return None
        return inspect.getdoc(getattr(node, "obj", None)) if getattr(node, "obj", None) is not None else None

    def _mark(self, mark: Any) -> int:
        if mark.name in _LEFT_OUT:
            return -1
        args, kwargs = ([], {}) if mark.name in _WITHOUT_ARGUMENTS else (list(mark.args), dict(mark.kwargs))
        try:
            text = json.dumps([mark.name, args, kwargs], default=repr)
        except (TypeError, ValueError, RecursionError):
            text = json.dumps([mark.name, [], {}])
        row = self._mark_rows.get(text)
        if row is None:
            row = self._mark_rows[text] = len(self.marks)
            self.marks.append(json.loads(text))
        return row
