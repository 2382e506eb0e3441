-- Owner: events. Publishes an event: also from within another feature's statement, which then is one message and one commit.
-- The lock makes ids grow in commit order, so that no reader skips an event that commits late; it is held to the end of the
-- transaction.
CREATE FUNCTION mcp_fabric.publish_event(p_type text, p_channel text, p_owner text, p_server text, p_payload jsonb, p_at timestamptz)
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('mcp_fabric.events'));
    INSERT INTO mcp_fabric.events (type, channel, owner, server_id, payload, created_at)
    VALUES (p_type, p_channel, p_owner, p_server, p_payload, p_at);
    PERFORM pg_notify('fabric_events', '');
END
$$;
