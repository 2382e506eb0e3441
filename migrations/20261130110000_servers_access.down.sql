CREATE OR REPLACE VIEW mcp_fabric.server_categories WITH (security_invoker = true) AS
    SELECT category AS name, count(*) AS count
    FROM mcp_fabric.servers, unnest(categories) AS category
    WHERE erased_at IS NULL AND status <> 'deleted'
    GROUP BY category;
ALTER TABLE mcp_fabric.servers
    DROP COLUMN is_listed,
    DROP COLUMN owner,
    DROP COLUMN created_by,
    DROP COLUMN visibility,
    DROP COLUMN is_hidden,
    DROP COLUMN is_denied,
    DROP COLUMN metadata,
    DROP COLUMN revision;
