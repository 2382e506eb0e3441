-- Owner: credentials. One plan of the list for all users and servers: it goes by the unique index whatever they are, and
-- making it anew for each request took longer than the rest of it.
ALTER FUNCTION credentials.list(text, text, text) SET plan_cache_mode = force_generic_plan;
