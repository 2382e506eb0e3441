-- Owner: platform. The schema of everything that is not a credential, an identity or an audit row,
-- and the rule by which row-level security knows whose rows a connection may see.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

CREATE SCHEMA mcp_fabric;

-- The service names its actor in `fabric.actor` for each transaction. Operator and system see every
-- row, anybody else their own; a connection that names nobody sees none.
CREATE FUNCTION mcp_fabric.acts_for(owner text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(
        current_setting('fabric.actor', true) = 'operator'
        OR current_setting('fabric.actor', true) LIKE 'system:%'
        OR current_setting('fabric.actor', true) = owner,
        false
    );
