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
    -- The words of the id without the part of its namespace that says nothing: `io.github.Acme/my-weather` is
    -- `acme my weather`.
    handle         text        COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        lower(regexp_replace(regexp_replace(id, '^(io\.github|io\.gitlab|[a-zA-Z0-9-]+)\.(?=.*/)', ''), '[^a-zA-Z0-9]+', ' ', 'g'))
    ) STORED,
    -- As registry documents name it: plain names stand in a namespace of ours.
    registry_name  text        COLLATE "C" NOT NULL GENERATED ALWAYS AS (
        CASE WHEN position('/' IN id) > 0 THEN id ELSE 'local.fabric/' || id END
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
-- Not on `id`: this kind of index is also taken for equality, which costs a hundred times what the primary key does.
CREATE INDEX servers_registry_name_trigram ON mcp_fabric.servers USING gin (registry_name gin_trgm_ops);
CREATE INDEX servers_description_trigram ON mcp_fabric.servers USING gin (description gin_trgm_ops);
CREATE INDEX servers_categories ON mcp_fabric.servers USING gin (categories);
CREATE INDEX servers_updated ON mcp_fabric.servers (updated_at, id);

-- What comes in is put into these indexes in portions, which is fast; until then every search reads all of it.
CREATE FUNCTION mcp_fabric.settle_searches() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT gin_clean_pending_list(name::regclass)
    FROM unnest(ARRAY['servers_search', 'servers_handle_trigram', 'servers_registry_name_trigram', 'servers_description_trigram',
                      'servers_categories']) AS index(short), format('mcp_fabric.%I', short) AS name
$$;
