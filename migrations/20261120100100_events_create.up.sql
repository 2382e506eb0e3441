-- Owner: events. What changed, in commit order, for those who watch and those who come back.
CREATE TABLE mcp_fabric.events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    type       text        NOT NULL,
    channel    text        NOT NULL,
    owner      text,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL
);

-- An event without an owner is for every actor.
ALTER TABLE mcp_fabric.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.events FORCE ROW LEVEL SECURITY;
CREATE POLICY events_read ON mcp_fabric.events FOR SELECT
    USING (owner IS NULL OR mcp_fabric.acts_for(owner));
CREATE POLICY events_write ON mcp_fabric.events FOR INSERT WITH CHECK (true);
CREATE POLICY events_prune ON mcp_fabric.events FOR DELETE
    USING (mcp_fabric.acts_for('nobody'));
