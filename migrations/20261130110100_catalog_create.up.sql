-- Owner: catalog. What was changed of servers here, change by change, and which servers administrators allow.
CREATE TABLE mcp_fabric.catalog_revisions (
    server_id  text        COLLATE "C" NOT NULL REFERENCES mcp_fabric.servers (id) ON DELETE CASCADE,
    revision   bigint      NOT NULL,
    -- Of a server that was made here; upstream's own are kept as versions.
    document   jsonb,
    metadata   jsonb       NOT NULL,
    visibility text        NOT NULL,
    is_hidden  boolean     NOT NULL,
    -- As actors are written.
    changed_by text        NOT NULL,
    changed_at timestamptz NOT NULL,
    note       text,
    PRIMARY KEY (server_id, revision)
);

CREATE TABLE mcp_fabric.catalog_rules (
    id           uuid        PRIMARY KEY,
    effect       text        NOT NULL CONSTRAINT catalog_rules_effect CHECK (effect IN ('allow', 'deny')),
    -- The name of a server, with `*` for any characters.
    pattern      text        NOT NULL CONSTRAINT catalog_rules_pattern CHECK (pattern <> '' AND length(pattern) <= 255),
    like_pattern text        NOT NULL GENERATED ALWAYS AS (
        replace(replace(replace(replace(lower(pattern), '\', '\\'), '%', '\%'), '_', '\_'), '*', '%')
    ) STORED,
    note         text,
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL,
    CONSTRAINT catalog_rules_once UNIQUE (effect, pattern)
);

-- What is denied stays so whatever else allows it; where anything is allowed, all else is denied.
CREATE FUNCTION mcp_fabric.catalog_denies(server text) RETURNS boolean LANGUAGE sql STABLE AS $$
    WITH matching AS (
        SELECT effect, bool_or(lower(server) LIKE like_pattern
                              OR (position('/' IN server) = 0 AND lower('local.fabric/' || server) LIKE like_pattern)) AS does
        FROM mcp_fabric.catalog_rules GROUP BY effect
    )
    SELECT coalesce((SELECT does FROM matching WHERE effect = 'deny'), false)
        OR NOT coalesce((SELECT does FROM matching WHERE effect = 'allow'), true)
$$;

CREATE FUNCTION mcp_fabric.servers_judge() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.is_denied := mcp_fabric.catalog_denies(NEW.id);
    RETURN NEW;
END $$;
CREATE TRIGGER servers_judge BEFORE INSERT ON mcp_fabric.servers FOR EACH ROW EXECUTE FUNCTION mcp_fabric.servers_judge();

CREATE FUNCTION mcp_fabric.servers_judge_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mcp_fabric.servers SET is_denied = NOT is_denied WHERE is_denied <> mcp_fabric.catalog_denies(id);
    RETURN NULL;
END $$;
CREATE TRIGGER catalog_rules_judge AFTER INSERT OR UPDATE OR DELETE ON mcp_fabric.catalog_rules
    FOR EACH STATEMENT EXECUTE FUNCTION mcp_fabric.servers_judge_all();
