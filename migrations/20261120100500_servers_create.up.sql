-- Owner: servers. One row for each catalogue entry; what lists and searches need of its latest version.
CREATE TABLE mcp_fabric.servers (
    id             text        COLLATE "C" PRIMARY KEY,
    uuid           uuid        NOT NULL,
    origin         text        NOT NULL,
    based_on       text        COLLATE "C",
    title          text,
    description    text        NOT NULL DEFAULT '',
    version        text,
    status         text        NOT NULL DEFAULT 'active',
    categories     text[]      NOT NULL DEFAULT '{}',
    registry_types text[]      NOT NULL DEFAULT '{}',
    transports     text[]      NOT NULL DEFAULT '{}',
    has_remote     boolean     NOT NULL DEFAULT false,
    published_at   timestamptz,
    updated_at     timestamptz NOT NULL,
    erased_at      timestamptz,
    latest_hash    bytea,
    rules_hash     bytea,
    -- The id without the part of its namespace that says nothing: `io.github.acme/weather` is `acme/weather`.
    handle         text        NOT NULL GENERATED ALWAYS AS (
        regexp_replace(id, '^(io\.github|io\.gitlab|[a-zA-Z0-9-]+)\.(?=.*/)', '')
    ) STORED,
    search         tsvector    NOT NULL GENERATED ALWAYS AS (
        setweight(to_tsvector('simple', regexp_replace(
            regexp_replace(id, '^(io\.github|io\.gitlab|[a-zA-Z0-9-]+)\.(?=.*/)', ''), '[^a-zA-Z0-9]+', ' ', 'g')), 'A')
        || setweight(to_tsvector('english', regexp_replace(
            regexp_replace(id, '^(io\.github|io\.gitlab|[a-zA-Z0-9-]+)\.(?=.*/)', ''), '[^a-zA-Z0-9]+', ' ', 'g')), 'A')
        || setweight(to_tsvector('english', coalesce(title, '')), 'A')
        || setweight(to_tsvector('english', description), 'C')
    ) STORED,
    CONSTRAINT servers_uuid UNIQUE (uuid),
    CONSTRAINT servers_origin CHECK (origin IN ('upstream', 'predefined', 'custom', 'generated')),
    CONSTRAINT servers_status CHECK (status IN ('active', 'deprecated', 'deleted'))
);

CREATE INDEX servers_search ON mcp_fabric.servers USING gin (search);
CREATE INDEX servers_handle_trigram ON mcp_fabric.servers USING gin (handle gin_trgm_ops);
CREATE INDEX servers_id_trigram ON mcp_fabric.servers USING gin (id gin_trgm_ops);
CREATE INDEX servers_description_trigram ON mcp_fabric.servers USING gin (description gin_trgm_ops);
CREATE INDEX servers_categories ON mcp_fabric.servers USING gin (categories);
CREATE INDEX servers_updated ON mcp_fabric.servers (updated_at, id);
