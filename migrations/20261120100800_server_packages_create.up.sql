-- Owner: servers. What a version says can be installed; the cached_* columns belong to the cache.
CREATE TABLE mcp_fabric.server_packages (
    server_id         text        COLLATE "C" NOT NULL,
    version           text        COLLATE "C" NOT NULL,
    position          integer     NOT NULL,
    registry_type     text        NOT NULL,
    identifier        text        NOT NULL,
    package_version   text,
    transport         text,
    registry_base_url text,
    file_sha256       text,
    cached_at         timestamptz,
    cache_path        text,
    cache_size_bytes  bigint,
    cache_checksum    text,
    PRIMARY KEY (server_id, version, position),
    FOREIGN KEY (server_id, version) REFERENCES mcp_fabric.server_versions (server_id, version) ON DELETE CASCADE
);
