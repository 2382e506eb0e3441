-- Owner: servers. The bodies that upstream has edited away.
CREATE TABLE mcp_fabric.server_version_history (
    server_id    text        COLLATE "C" NOT NULL,
    version      text        COLLATE "C" NOT NULL,
    content_hash bytea       NOT NULL,
    document     text        NOT NULL,
    received_at  timestamptz NOT NULL,
    replaced_at  timestamptz NOT NULL,
    PRIMARY KEY (server_id, version, replaced_at),
    FOREIGN KEY (server_id, version) REFERENCES mcp_fabric.server_versions (server_id, version) ON DELETE CASCADE
);
