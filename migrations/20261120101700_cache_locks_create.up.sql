-- Owner: cache. What an install of a package needs, as its own ecosystem's resolver chose it: the same lock, the same bytes.
CREATE TABLE mcp_fabric.cache_locks (
    registry_type text        NOT NULL,
    name          text        COLLATE "C" NOT NULL,
    version       text        COLLATE "C" NOT NULL,
    -- [{"name", "version", "files": [{"name", "sha256", "size"}]}], the package itself among them.
    packages      jsonb       NOT NULL,
    resolver      text        NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (registry_type, name, version)
);
