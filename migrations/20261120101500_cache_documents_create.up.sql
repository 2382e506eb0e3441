-- Owner: cache. What a registry says of a package, as it was last asked; the text itself is a blob.
CREATE TABLE mcp_fabric.cache_documents (
    registry_type text        NOT NULL,
    name          text        COLLATE "C" NOT NULL,
    blob          bytea       NOT NULL,
    source        text        NOT NULL,
    etag          text,
    checked_at    timestamptz NOT NULL,
    PRIMARY KEY (registry_type, name)
);

CREATE INDEX cache_documents_blob ON mcp_fabric.cache_documents (blob);
