-- Owner: cache. What a package is called (a tag, a spelling, no version at all), and which exact one that was when it was last asked for.
CREATE TABLE mcp_fabric.cache_names (
    registry_type text        NOT NULL,
    identifier    text        COLLATE "C" NOT NULL,
    -- As it is called; empty: none.
    wanted        text        COLLATE "C" NOT NULL,
    -- The platform, for images; empty: none.
    target        text        COLLATE "C" NOT NULL,
    package_type  text        NOT NULL,
    name          text        COLLATE "C" NOT NULL,
    version       text        COLLATE "C" NOT NULL,
    resolved_at   timestamptz NOT NULL,
    PRIMARY KEY (registry_type, identifier, wanted, target)
);

CREATE INDEX cache_names_package ON mcp_fabric.cache_names (package_type, name, version);
