-- Owner: cache. Locks of npm say into which folders packages go, and those that do not are made anew; a package may
-- have a second lock, under further constraints (`mcp<2`).
DELETE FROM mcp_fabric.cache_locks WHERE registry_type = 'npm';
ALTER TABLE mcp_fabric.cache_locks ADD COLUMN constraints text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE mcp_fabric.cache_locks DROP CONSTRAINT cache_locks_pkey, ADD CONSTRAINT cache_locks_pkey PRIMARY KEY (registry_type, name, version, constraints);
