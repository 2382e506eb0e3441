-- Owner: cache. A lock with folders is readable without them.
SELECT 1;
