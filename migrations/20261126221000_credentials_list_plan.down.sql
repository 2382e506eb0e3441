-- Owner: credentials.
ALTER FUNCTION credentials.list(text, text, text) RESET plan_cache_mode;
