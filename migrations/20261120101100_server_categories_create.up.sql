-- Owner: servers. Each category with the number of servers in it, as the lists show them.
CREATE VIEW mcp_fabric.server_categories WITH (security_invoker = true) AS
    SELECT category AS name, count(*) AS count
    FROM mcp_fabric.servers, unnest(categories) AS category
    WHERE erased_at IS NULL AND status <> 'deleted'
    GROUP BY category;
