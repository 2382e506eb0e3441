-- Owner: cache. One row for each file of a package that was asked for; its bytes are there before the row says so.
CREATE TABLE mcp_fabric.cache_artifacts (
    registry_type   text        NOT NULL,
    name            text        COLLATE "C" NOT NULL,
    version         text        COLLATE "C" NOT NULL,
    file_name       text        COLLATE "C" NOT NULL,
    status          text        NOT NULL,
    -- The SHA-256 by which the store knows the bytes.
    blob            bytea,
    size_bytes      bigint,
    bytes_done      bigint      NOT NULL DEFAULT 0,
    bytes_total     bigint,
    -- What the registry stated, and where the bytes came from.
    upstream_digest text,
    source          text,
    attempts        integer     NOT NULL DEFAULT 0,
    error_code      text,
    error           text,
    -- Who downloads it, and until when that is believed without a sign of life.
    lease_node      text,
    leased_until    timestamptz,
    fetched_at      timestamptz,
    last_used_at    timestamptz,
    PRIMARY KEY (registry_type, name, version, file_name),
    CONSTRAINT cache_artifacts_status CHECK (status IN ('downloading', 'cached', 'failed')),
    CONSTRAINT cache_artifacts_cached CHECK (status <> 'cached' OR (blob IS NOT NULL AND size_bytes IS NOT NULL AND fetched_at IS NOT NULL))
);

CREATE INDEX cache_artifacts_blob ON mcp_fabric.cache_artifacts (blob);
CREATE INDEX cache_artifacts_leased ON mcp_fabric.cache_artifacts (lease_node) WHERE lease_node IS NOT NULL;
