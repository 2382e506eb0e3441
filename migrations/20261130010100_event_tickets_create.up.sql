-- Owner: events. Tickets for those who cannot send a token with what they open. The token that a ticket stands for is
-- sealed with a key that only the ticket itself has.
CREATE TABLE mcp_fabric.event_tickets (
    id         bytea       NOT NULL CONSTRAINT event_tickets_pkey PRIMARY KEY,
    sealed     bytea       NOT NULL,
    -- The page that it was given to; null for what is no page.
    origin     text,
    expires_at timestamptz NOT NULL,
    CONSTRAINT event_tickets_id CHECK (octet_length(id) = 32)
);
CREATE INDEX event_tickets_expires_at ON mcp_fabric.event_tickets (expires_at);
ALTER TABLE mcp_fabric.event_tickets ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.event_tickets FORCE ROW LEVEL SECURITY;
CREATE POLICY event_tickets_own ON mcp_fabric.event_tickets USING (mcp_fabric.acts_for('nobody'));
