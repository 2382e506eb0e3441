-- Owner: cache. A lock with folders is readable without them; second ones are not.
DELETE FROM mcp_fabric.cache_locks WHERE constraints <> '';
ALTER TABLE mcp_fabric.cache_locks DROP CONSTRAINT cache_locks_pkey, ADD CONSTRAINT cache_locks_pkey PRIMARY KEY (registry_type, name, version);
ALTER TABLE mcp_fabric.cache_locks DROP COLUMN constraints;
