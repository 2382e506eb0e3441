-- Owner: events. The writer of the audit chain tells of what it chained, in the same transaction.
CREATE FUNCTION mcp_fabric.grant_roles(prefix text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('GRANT INSERT ON mcp_fabric.events TO %I', prefix || '_audit');
END $$;
REVOKE ALL ON FUNCTION mcp_fabric.grant_roles(text) FROM PUBLIC;
