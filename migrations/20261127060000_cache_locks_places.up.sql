-- Owner: cache. Locks of npm say into which folders packages go; those that do not are made anew.
DELETE FROM mcp_fabric.cache_locks WHERE registry_type = 'npm';
