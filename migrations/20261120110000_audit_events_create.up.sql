-- Owner: audit. The trail: a chain of events in day partitions, what of it is personal beside it, and what waits
-- to be chained. Only the writer of the chain inserts here, nobody changes, and only whole days go.
CREATE SCHEMA audit;

CREATE TABLE audit.events (
    seq            bigint      NOT NULL,
    day            date        NOT NULL,
    id             uuid        NOT NULL,
    at             timestamptz NOT NULL,
    event_type     text        NOT NULL,
    action         text        NOT NULL,
    outcome        text        NOT NULL,
    actor          text        NOT NULL,
    owner          text        NOT NULL,
    door           text        NOT NULL,
    request_id     text,
    target_type    text,
    target_id      text,
    server_id      text,
    answers        uuid,
    detail         json        NOT NULL,
    pii_commitment bytea,
    authentic      boolean     NOT NULL,
    prev           bytea       NOT NULL,
    hash           bytea       NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (seq, day),
    CONSTRAINT events_type CHECK (event_type IN ('authentication', 'authorization', 'data_access', 'data_change', 'execution', 'bulk_operation', 'system', 'warning')),
    CONSTRAINT events_outcome CHECK (outcome IN ('intent', 'success', 'denied', 'failure', 'timeout')),
    CONSTRAINT events_hash CHECK (octet_length(prev) = 32 AND octet_length(hash) = 32)
) PARTITION BY RANGE (day);

CREATE INDEX events_owner ON audit.events (owner, seq);
CREATE INDEX events_actor ON audit.events (actor, seq);
CREATE INDEX events_action ON audit.events (action, seq);
CREATE INDEX events_server ON audit.events (server_id, seq) WHERE server_id IS NOT NULL;
CREATE INDEX events_target ON audit.events (target_id, seq) WHERE target_id IS NOT NULL;
CREATE INDEX events_answers ON audit.events (answers) WHERE answers IS NOT NULL;
CREATE INDEX events_intents ON audit.events (at) WHERE outcome = 'intent';

ALTER TABLE audit.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.events FORCE ROW LEVEL SECURITY;
CREATE POLICY events_own ON audit.events USING (mcp_fabric.acts_for(owner));

-- Who a person is. The chain holds a salted commitment to it, so that it can be erased without a gap.
CREATE TABLE audit.event_pii (
    event_id uuid  NOT NULL,
    day      date  NOT NULL,
    subject  text,
    salt     bytea NOT NULL,
    content  json  NOT NULL,
    CONSTRAINT event_pii_pkey PRIMARY KEY (event_id, day)
) PARTITION BY RANGE (day);
CREATE INDEX event_pii_subject ON audit.event_pii (subject) WHERE subject IS NOT NULL;
ALTER TABLE audit.event_pii ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.event_pii FORCE ROW LEVEL SECURITY;
CREATE POLICY event_pii_own ON audit.event_pii USING (mcp_fabric.acts_for(subject));

-- Written in the transaction of what it tells; chained within a second.
CREATE TABLE audit.pending (
    n       bigint      GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    event   text        NOT NULL,
    pii     text,
    mac     bytea       NOT NULL,
    CONSTRAINT pending_pkey PRIMARY KEY (n)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

-- The end of the chain; its lock makes writers of several replicas take turns.
CREATE TABLE audit.head (
    only_one boolean     NOT NULL DEFAULT true,
    seq      bigint      NOT NULL,
    day      date        NOT NULL,
    hash     bytea       NOT NULL,
    mac      bytea,
    CONSTRAINT head_pkey PRIMARY KEY (only_one),
    CONSTRAINT head_single CHECK (only_one)
);
INSERT INTO audit.head (seq, day, hash) VALUES (0, '0001-01-01', decode(repeat('00', 32), 'hex'));

-- Signed statements about the chain, kept for ever.
CREATE TABLE audit.checkpoints (
    n         bigint      GENERATED ALWAYS AS IDENTITY,
    seq       bigint      NOT NULL,
    at        timestamptz NOT NULL,
    purged_to bigint,
    body      text        NOT NULL,
    signature bytea       NOT NULL,
    CONSTRAINT checkpoints_pkey PRIMARY KEY (n)
);

-- How far each copy outside has come.
CREATE TABLE audit.copies (
    name text   NOT NULL,
    seq  bigint NOT NULL,
    CONSTRAINT copies_pkey PRIMARY KEY (name)
);

CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is not changed' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER events_unchanged BEFORE UPDATE OR DELETE ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER checkpoints_unchanged BEFORE UPDATE OR DELETE ON audit.checkpoints FOR EACH ROW EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER events_kept BEFORE TRUNCATE ON audit.events FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER checkpoints_kept BEFORE TRUNCATE ON audit.checkpoints FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

-- Makes the partitions of a day. They are attached rather than made in place, which waits for no reader.
CREATE FUNCTION audit.ensure_day(wanted date) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent text;
    child  text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['events', 'event_pii'] LOOP
        child := parent || '_' || to_char(wanted, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('audit.' || child) IS NOT NULL;
        EXECUTE format('CREATE TABLE audit.%I (LIKE audit.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', child, parent);
        EXECUTE format('ALTER TABLE audit.%I ADD CONSTRAINT %I CHECK (day >= %L AND day < %L)', child, child || '_day', wanted, wanted + 1);
        EXECUTE format('ALTER TABLE audit.%I ATTACH PARTITION audit.%I FOR VALUES FROM (%L) TO (%L)', parent, child, wanted, wanted + 1);
        EXECUTE format('ALTER TABLE audit.%I DROP CONSTRAINT %I', child, child || '_day');
    END LOOP;
END $$;

-- Drops a whole day, when a checkpoint says so that was written before.
CREATE FUNCTION audit.drop_day(gone date) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint;
BEGIN
    IF to_regclass('audit.events_' || to_char(gone, 'YYYYMMDD')) IS NULL THEN
        IF to_regclass('audit.event_pii_' || to_char(gone, 'YYYYMMDD')) IS NULL THEN
            RETURN false;
        END IF;
        EXECUTE format('DROP TABLE audit.event_pii_%s', to_char(gone, 'YYYYMMDD'));
        RETURN true;
    END IF;
    EXECUTE format('SELECT max(seq) FROM audit.events_%s', to_char(gone, 'YYYYMMDD')) INTO newest;
    IF newest IS NOT NULL AND NOT EXISTS (SELECT FROM audit.checkpoints c WHERE c.purged_to >= newest) THEN
        RAISE EXCEPTION 'no checkpoint covers the purge of %', gone USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE audit.events_%s', to_char(gone, 'YYYYMMDD'));
    EXECUTE format('DROP TABLE IF EXISTS audit.event_pii_%s', to_char(gone, 'YYYYMMDD'));
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION audit.ensure_day(date), audit.drop_day(date) FROM PUBLIC;

-- The days there are, oldest first, with the bytes that each takes.
CREATE FUNCTION audit.days() RETURNS TABLE (day date, bytes bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT to_date(right(c.relname, 8), 'YYYYMMDD'), sum(pg_total_relation_size(c.oid))::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent IN ('audit.events'::regclass, 'audit.event_pii'::regclass)
    GROUP BY 1 ORDER BY 1
$$;

CREATE FUNCTION audit.grant_roles(prefix text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['app', 'worker', 'reveal', 'audit'] LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA audit TO %I', prefix || '_' || role);
        EXECUTE format('GRANT INSERT ON audit.pending TO %I', prefix || '_' || role);
    END LOOP;
    EXECUTE format('GRANT SELECT ON audit.events, audit.event_pii TO %I', prefix || '_app');
    EXECUTE format('GRANT SELECT, DELETE ON audit.pending TO %I', prefix || '_audit');
    EXECUTE format('GRANT SELECT, INSERT ON audit.events, audit.event_pii, audit.checkpoints TO %I', prefix || '_audit');
    EXECUTE format('GRANT DELETE ON audit.event_pii TO %I', prefix || '_audit');
    EXECUTE format('GRANT SELECT, UPDATE ON audit.head TO %I', prefix || '_audit');
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON audit.copies TO %I', prefix || '_audit');
    EXECUTE format('GRANT EXECUTE ON FUNCTION audit.ensure_day(date), audit.drop_day(date), audit.days() TO %I', prefix || '_audit');
    EXECUTE format('GRANT USAGE ON SCHEMA mcp_fabric TO %I, %I', prefix || '_audit', prefix || '_reveal');
END $$;
REVOKE ALL ON FUNCTION audit.grant_roles(text) FROM PUBLIC;
