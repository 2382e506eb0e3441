-- Owner: servers. A name that comes back after it was erased is another server: what was kept for the first one is
-- not for it.
ALTER TABLE mcp_fabric.servers ADD COLUMN incarnation integer NOT NULL DEFAULT 1;
CREATE FUNCTION mcp_fabric.servers_reborn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.incarnation := OLD.incarnation + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER servers_reborn BEFORE UPDATE ON mcp_fabric.servers FOR EACH ROW
    WHEN (OLD.erased_at IS NOT NULL AND NEW.erased_at IS NULL) EXECUTE FUNCTION mcp_fabric.servers_reborn();
