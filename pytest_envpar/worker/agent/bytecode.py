"""Keeps the bytecode that pytest writes for rewritten test modules where the next container finds it.

Only pytest's own files: ``sys.pycache_prefix`` would do the same for every import, but the tests would see it, and the
image's own bytecode would be passed over.
"""

import os
from pathlib import Path
from typing import Callable, Optional


def keep(folder: str, root: str) -> None:
    """Let modules below ``root`` have their rewritten bytecode below ``folder`` (both container paths)."""
    from _pytest.assertion import rewrite

    original: Optional[Callable[[Path], Path]] = getattr(rewrite, "get_cache_dir", None)
    if original is None or not os.access(folder, os.W_OK):
        return
    below = root.rstrip("/") + "/"

    def get_cache_dir(file_path: Path) -> Path:
        text = str(file_path)
        if text.startswith(below):
            return Path(folder, os.path.dirname(text).lstrip("/"))
        return original(file_path)

    rewrite.get_cache_dir = get_cache_dir
