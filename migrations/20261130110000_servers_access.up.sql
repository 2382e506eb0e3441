-- Owner: servers. Whose a server is that was made here, who may see it, and what administrators say of it.
ALTER TABLE mcp_fabric.servers
    -- As actors are written, of one whose document is kept in the catalogue; NULL for what is mirrored, predefined, or made
    -- by an installation.
    ADD COLUMN owner      text,
    -- The same, where it is a person.
    ADD COLUMN created_by uuid    CONSTRAINT servers_created_by REFERENCES identity.users (id) ON DELETE SET NULL,
    ADD COLUMN visibility text    NOT NULL DEFAULT 'public' CONSTRAINT servers_visibility CHECK (visibility IN ('private', 'shared', 'public')),
    -- In no list, and usable by its name.
    ADD COLUMN is_hidden  boolean NOT NULL DEFAULT false,
    -- By the allow and deny lists of administrators: neither listed nor usable.
    ADD COLUMN is_denied  boolean NOT NULL DEFAULT false,
    -- What people say of it beside its document.
    ADD COLUMN metadata   jsonb   NOT NULL DEFAULT '{}' CONSTRAINT servers_metadata CHECK (jsonb_typeof(metadata) = 'object'),
    ADD COLUMN revision   bigint  NOT NULL DEFAULT 1,
    -- Whether everybody finds it.
    ADD COLUMN is_listed  boolean NOT NULL GENERATED ALWAYS AS (visibility = 'public' AND NOT is_hidden AND NOT is_denied) STORED;
CREATE INDEX servers_owner ON mcp_fabric.servers (owner) WHERE owner IS NOT NULL;
CREATE INDEX servers_unlisted ON mcp_fabric.servers (id) WHERE NOT is_listed;
CREATE INDEX servers_created_by ON mcp_fabric.servers (created_by) WHERE created_by IS NOT NULL;

CREATE OR REPLACE VIEW mcp_fabric.server_categories WITH (security_invoker = true) AS
    SELECT category AS name, count(*) AS count
    FROM mcp_fabric.servers, unnest(categories) AS category
    WHERE erased_at IS NULL AND status <> 'deleted' AND is_listed
    GROUP BY category;
