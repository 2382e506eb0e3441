-- Owner: servers. Every server.json document, byte for byte as it was received.
CREATE TABLE mcp_fabric.server_versions (
    server_id         text        COLLATE "C" NOT NULL REFERENCES mcp_fabric.servers (id) ON DELETE CASCADE,
    version           text        COLLATE "C" NOT NULL,
    -- The name in registry documents: the id, or local.fabric/<id> for plain names.
    registry_name     text        COLLATE "C" NOT NULL,
    document          text        NOT NULL,
    -- What was received, where that was of an older shape than `document`.
    received          text,
    content_hash      bytea       NOT NULL,
    -- Members of the outer `_meta` besides the official one, as received.
    extra_meta        text,
    status            text        NOT NULL,
    status_message    text,
    status_changed_at timestamptz,
    published_at      timestamptz,
    updated_at        timestamptz NOT NULL,
    is_latest         boolean     NOT NULL DEFAULT false,
    received_at       timestamptz NOT NULL,
    PRIMARY KEY (server_id, version),
    CONSTRAINT server_versions_status CHECK (status IN ('active', 'deprecated', 'deleted'))
);

CREATE UNIQUE INDEX server_versions_one_latest ON mcp_fabric.server_versions (server_id) WHERE is_latest;
CREATE UNIQUE INDEX server_versions_registry ON mcp_fabric.server_versions (registry_name, version);
CREATE INDEX server_versions_latest_page ON mcp_fabric.server_versions (registry_name) WHERE is_latest;
CREATE INDEX server_versions_updated ON mcp_fabric.server_versions (updated_at);
