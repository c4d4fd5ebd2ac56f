"""The tables of the ledger, as the steps that lead to them.

``PRAGMA user_version`` is the number of steps that a file has seen. A step that was part of a release is never edited:
the next change is a step of its own, and a test migrates a stored file of every older version.

    1   images and layers, manifests in chunks, checkpoints, runs and outcomes
    2   outcomes by run: sorted by test, every run touched all pages of all runs before it
"""

from __future__ import annotations

APPLICATION_ID = 0x656E7670
"""``envp``, in the header of every ledger (``PRAGMA application_id``)."""

_FIRST = (
    """CREATE TABLE image (
        id TEXT PRIMARY KEY, platform TEXT NOT NULL, names TEXT NOT NULL, digests TEXT NOT NULL,
        config TEXT NOT NULL, created TEXT NOT NULL, size INTEGER, seen REAL NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX image_seen ON image (seen)",
    "CREATE TABLE layer (diff_id TEXT PRIMARY KEY, size INTEGER, instruction TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE image_layer (
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE, position INTEGER NOT NULL,
        layer TEXT NOT NULL REFERENCES layer (diff_id), PRIMARY KEY (image, position)
    ) WITHOUT ROWID""",
    "CREATE INDEX image_layer_layer ON image_layer (layer)",
    # An id is never used twice, so that a reader of one never meets the chunks of another.
    """CREATE TABLE manifest (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
        size INTEGER NOT NULL, complete INTEGER NOT NULL, used REAL NOT NULL
    )""",
    "CREATE UNIQUE INDEX manifest_key ON manifest (key, kind, version) WHERE complete",
    "CREATE INDEX manifest_used ON manifest (used)",
    """CREATE TABLE chunk (
        manifest INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE, position INTEGER NOT NULL,
        crc INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (manifest, position)
    )""",
    """CREATE TABLE checkpoint (
        project TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, parent TEXT NOT NULL, created REAL NOT NULL,
        PRIMARY KEY (project, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX checkpoint_image ON checkpoint (image)",
    """CREATE TABLE run (
        id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, stage TEXT NOT NULL, image TEXT NOT NULL,
        engine TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL, exit_status INTEGER NOT NULL,
        counts TEXT NOT NULL, manifest TEXT
    )""",
    "CREATE INDEX run_project ON run (project, stage, id)",
    "CREATE TABLE node (id INTEGER PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (project, name))",
    """CREATE TABLE outcome (
        node INTEGER NOT NULL REFERENCES node (id), run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE,
        outcome TEXT NOT NULL, duration REAL NOT NULL, manifest TEXT, PRIMARY KEY (node, run)
    ) WITHOUT ROWID""",
    "CREATE INDEX outcome_run ON outcome (run)",
)

_OUTCOMES_BY_RUN = (
    # The last run that had a test: when that run goes, so does the name.
    "ALTER TABLE node ADD COLUMN last INTEGER NOT NULL DEFAULT 0",
    "UPDATE node SET last = coalesce((SELECT max(run) FROM outcome WHERE outcome.node = node.id), 0)",
    """CREATE TABLE outcome_by_run (
        run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE, node INTEGER NOT NULL, outcome TEXT NOT NULL,
        duration REAL NOT NULL, manifest TEXT, PRIMARY KEY (run, node)
    ) WITHOUT ROWID""",
    "INSERT INTO outcome_by_run SELECT run, node, outcome, duration, manifest FROM outcome ORDER BY run, node",
    "DROP TABLE outcome",
    "ALTER TABLE outcome_by_run RENAME TO outcome",
)

STEPS: tuple[tuple[str, ...], ...] = (_FIRST, _OUTCOMES_BY_RUN)
"""The statements of each step, in order."""

VERSION = len(STEPS)
"""The version that this pytest-envpar reads and writes."""
