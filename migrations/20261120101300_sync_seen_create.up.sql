-- Owner: sync. What a running reconcile has met upstream; what is not here at its end was erased there.
CREATE TABLE mcp_fabric.sync_seen (
    run_id    uuid NOT NULL REFERENCES mcp_fabric.sync_history (id) ON DELETE CASCADE,
    server_id text COLLATE "C" NOT NULL,
    version   text COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, server_id, version)
);
