-- Owner: events. Which server an event is about: who may not use that server does not hear of it.
ALTER TABLE mcp_fabric.events ADD COLUMN server_id text;
