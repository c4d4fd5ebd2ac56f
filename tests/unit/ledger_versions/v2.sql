-- A ledger of version 2, as sqlite3's .dump writes it. Never edited: files like this exist.
PRAGMA application_id = 1701738096;
PRAGMA user_version = 2;
BEGIN TRANSACTION;
CREATE TABLE checkpoint (
        project TEXT NOT NULL, name TEXT NOT NULL, image TEXT NOT NULL, parent TEXT NOT NULL, created REAL NOT NULL,
        PRIMARY KEY (project, name)
    ) WITHOUT ROWID;
INSERT INTO "checkpoint" VALUES('/p','installed','sha256:c','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1.0);
CREATE TABLE chunk (
        manifest INTEGER NOT NULL REFERENCES manifest (id) ON DELETE CASCADE, position INTEGER NOT NULL,
        crc INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (manifest, position)
    );
INSERT INTO "chunk" VALUES(1,0,2801428544,X'6D616E6966657374');
INSERT INTO "chunk" VALUES(2,0,2612379815,X'7061636B61676573');
CREATE TABLE image (
        id TEXT PRIMARY KEY, platform TEXT NOT NULL, names TEXT NOT NULL, digests TEXT NOT NULL,
        config TEXT NOT NULL, created TEXT NOT NULL, size INTEGER, seen REAL NOT NULL
    ) WITHOUT ROWID;
INSERT INTO "image" VALUES('sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','linux/amd64','["a:1"]','["a@sha256:x"]','{"user": "me"}','2026-01-01T00:00:00Z',10,1760000000.0);
CREATE TABLE image_layer (
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE, position INTEGER NOT NULL,
        layer TEXT NOT NULL REFERENCES layer (diff_id), PRIMARY KEY (image, position)
    ) WITHOUT ROWID;
INSERT INTO "image_layer" VALUES('sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',0,'sha256:1111111111111111111111111111111111111111111111111111111111111111');
INSERT INTO "image_layer" VALUES('sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa',1,'sha256:2222222222222222222222222222222222222222222222222222222222222222');
CREATE TABLE layer (diff_id TEXT PRIMARY KEY, size INTEGER, instruction TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "layer" VALUES('sha256:1111111111111111111111111111111111111111111111111111111111111111',10,'RUN x');
INSERT INTO "layer" VALUES('sha256:2222222222222222222222222222222222222222222222222222222222222222',NULL,'');
CREATE TABLE manifest (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, kind TEXT NOT NULL, version INTEGER NOT NULL,
        size INTEGER NOT NULL, complete INTEGER NOT NULL, used REAL NOT NULL
    );
INSERT INTO "manifest" VALUES(1,'sha256:1111111111111111111111111111111111111111111111111111111111111111','files',1,8,1,1760000000.0);
INSERT INTO "manifest" VALUES(2,'sha256:1111111111111111111111111111111111111111111111111111111111111111','packages',1,8,1,1760000000.0);
CREATE TABLE node (id INTEGER PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, last INTEGER NOT NULL DEFAULT 0, UNIQUE (project, name));
INSERT INTO "node" VALUES(1,'/p','t.py::a',1);
INSERT INTO "node" VALUES(2,'/p','t.py::b',1);
CREATE TABLE "outcome" (
        run INTEGER NOT NULL REFERENCES run (id) ON DELETE CASCADE, node INTEGER NOT NULL, outcome TEXT NOT NULL,
        duration REAL NOT NULL, manifest TEXT, PRIMARY KEY (run, node)
    ) WITHOUT ROWID;
INSERT INTO "outcome" VALUES(1,1,'passed',0.5,NULL);
INSERT INTO "outcome" VALUES(1,2,'failed',0.25,'container:x');
CREATE TABLE run (
        id INTEGER PRIMARY KEY AUTOINCREMENT, project TEXT NOT NULL, stage TEXT NOT NULL, image TEXT NOT NULL,
        engine TEXT NOT NULL, started REAL NOT NULL, ended REAL NOT NULL, exit_status INTEGER NOT NULL,
        counts TEXT NOT NULL, manifest TEXT
    );
INSERT INTO "run" VALUES(1,'/p','qa','sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','docker 20.10',1.0,2.0,1,'{"failed": 1, "passed": 1}',NULL);
CREATE INDEX image_seen ON image (seen);
CREATE INDEX image_layer_layer ON image_layer (layer);
CREATE UNIQUE INDEX manifest_key ON manifest (key, kind, version) WHERE complete;
CREATE INDEX manifest_used ON manifest (used);
CREATE INDEX checkpoint_image ON checkpoint (image);
CREATE INDEX run_project ON run (project, stage, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('manifest',2);
INSERT INTO "sqlite_sequence" VALUES('run',1);
COMMIT;
