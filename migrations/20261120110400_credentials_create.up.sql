-- Owner: credentials. The vault: sealed values, the keys that seal them (by name, never the keys), and how values
-- move from one key to the next.
CREATE SCHEMA IF NOT EXISTS credentials;

-- One row: who this fabric is. Keys are derived with it, so that two fabrics with one key do not share any.
CREATE TABLE credentials.fabric (
    only_one boolean NOT NULL DEFAULT true,
    id       uuid    NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT fabric_pkey PRIMARY KEY (only_one),
    CONSTRAINT fabric_single CHECK (only_one)
);
INSERT INTO credentials.fabric DEFAULT VALUES;

CREATE TABLE credentials.key_versions (
    version    integer     NOT NULL,
    kid        text        NOT NULL,
    kcv        bytea       NOT NULL,
    state      text        NOT NULL,
    wraps      bigint      NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    retired_at timestamptz,
    CONSTRAINT key_versions_pkey PRIMARY KEY (version),
    CONSTRAINT key_versions_kid UNIQUE (kid),
    CONSTRAINT key_versions_state CHECK (state IN ('active', 'previous', 'retired'))
);
CREATE UNIQUE INDEX key_versions_active ON credentials.key_versions (state) WHERE state = 'active';

CREATE TABLE credentials.mcp_credentials (
    id               uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id          text        NOT NULL,
    server_id        text        NOT NULL REFERENCES mcp_fabric.servers(id),
    env_var          text        NOT NULL,
    encrypted_value  text        NOT NULL,
    iv               text        NOT NULL,
    created_at       timestamptz DEFAULT now(),
    updated_at       timestamptz DEFAULT now(),
    last_used_at     timestamptz,
    alg              smallint    NOT NULL DEFAULT 0,
    kek_version      integer     REFERENCES credentials.key_versions (version),
    wrapped_dek      bytea,
    key_commit       bytea,
    rev              bigint      NOT NULL DEFAULT 1,
    kind             text        NOT NULL DEFAULT 'env',
    expires_at       timestamptz,
    last_used_by     text,
    use_count        bigint      NOT NULL DEFAULT 0,
    incarnation      integer     NOT NULL DEFAULT 1,
    attested_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (user_id, server_id, env_var),
    CONSTRAINT credentials_env_var CHECK (env_var ~ '^[A-Za-z_][A-Za-z0-9_]{0,127}$'),
    CONSTRAINT credentials_user CHECK (user_id <> '' AND length(user_id) <= 255),
    CONSTRAINT credentials_kind CHECK (kind IN ('env', 'api_key', 'oauth_access', 'oauth_refresh')),
    CONSTRAINT credentials_alg CHECK (alg IN (0, 1)),
    CONSTRAINT credentials_shape CHECK (alg = 0 OR (octet_length(wrapped_dek) = 60 AND octet_length(key_commit) = 32 AND length(iv) = 16 AND kek_version IS NOT NULL))
) WITH (fillfactor = 90);
CREATE INDEX idx_creds_user ON credentials.mcp_credentials (user_id);
CREATE INDEX idx_creds_server ON credentials.mcp_credentials (server_id);
CREATE INDEX credentials_key ON credentials.mcp_credentials (kek_version, id);
ALTER TABLE credentials.mcp_credentials ENABLE ROW LEVEL SECURITY;
ALTER TABLE credentials.mcp_credentials FORCE ROW LEVEL SECURITY;
CREATE POLICY mcp_credentials_own ON credentials.mcp_credentials USING (mcp_fabric.acts_for('user:' || user_id));

-- Identity and revision are sealed into the value: a row that would lose them could not be opened any more.
CREATE FUNCTION credentials.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.id, NEW.user_id, NEW.server_id, NEW.env_var) IS DISTINCT FROM (OLD.id, OLD.user_id, OLD.server_id, OLD.env_var) THEN
        RAISE EXCEPTION 'a credential is not moved' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- When the value changed, not when it was used or wrapped anew.
    IF NEW.rev <> OLD.rev THEN
        NEW.updated_at := clock_timestamp();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER mcp_credentials_touch BEFORE UPDATE ON credentials.mcp_credentials FOR EACH ROW EXECUTE FUNCTION credentials.touch();

-- Secrets of the fabric itself and secret fields of other features, sealed in the same way.
CREATE TABLE credentials.sealed_secrets (
    id              uuid        NOT NULL,
    owner           text        NOT NULL,
    scope           text        NOT NULL,
    name            text        NOT NULL,
    encrypted_value text        NOT NULL,
    iv              text        NOT NULL,
    kek_version     integer     NOT NULL REFERENCES credentials.key_versions (version),
    wrapped_dek     bytea       NOT NULL,
    key_commit      bytea       NOT NULL,
    rev             bigint      NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sealed_secrets_pkey PRIMARY KEY (id),
    CONSTRAINT sealed_secrets_name UNIQUE (owner, scope, name)
);
CREATE INDEX sealed_secrets_key ON credentials.sealed_secrets (kek_version, id);
CREATE TRIGGER sealed_secrets_touch BEFORE UPDATE ON credentials.sealed_secrets FOR EACH ROW EXECUTE FUNCTION mcp_fabric.touch();
ALTER TABLE credentials.sealed_secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE credentials.sealed_secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY sealed_secrets_own ON credentials.sealed_secrets USING (mcp_fabric.acts_for(owner));

CREATE TABLE credentials.key_rotations (
    id           uuid        NOT NULL,
    to_version   integer     NOT NULL REFERENCES credentials.key_versions (version),
    state        text        NOT NULL,
    dry_run      boolean     NOT NULL DEFAULT false,
    total        bigint      NOT NULL,
    done         bigint      NOT NULL DEFAULT 0,
    failed       bigint      NOT NULL DEFAULT 0,
    started_by   text        NOT NULL,
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now(),
    worked       interval    NOT NULL DEFAULT '0',
    finished_at  timestamptz,
    CONSTRAINT key_rotations_pkey PRIMARY KEY (id),
    CONSTRAINT key_rotations_state CHECK (state IN ('running', 'paused', 'cancelled', 'completed', 'completed_with_errors'))
);
CREATE UNIQUE INDEX key_rotations_one ON credentials.key_rotations ((true)) WHERE state IN ('running', 'paused');

-- One-time hand-offs: what may be revealed once, not the value.
CREATE TABLE credentials.wrap_tokens (
    hash       bytea       NOT NULL,
    user_id    text        NOT NULL,
    server_id  text        NOT NULL,
    env_vars   text[],
    created_by text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CONSTRAINT wrap_tokens_pkey PRIMARY KEY (hash)
);
CREATE INDEX wrap_tokens_expiry ON credentials.wrap_tokens (expires_at);
ALTER TABLE credentials.wrap_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE credentials.wrap_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY wrap_tokens_own ON credentials.wrap_tokens USING (mcp_fabric.acts_for(NULL));

-- What a feature needs of one credential before it writes it, in one round trip that leaves no actor behind.
CREATE FUNCTION credentials.peek(p_actor text, p_user text, p_server text, p_env_var text)
    RETURNS TABLE (id uuid, rev bigint, incarnation integer, present integer)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('fabric.actor', p_actor, true);
    RETURN QUERY SELECT c.id, c.rev, c.incarnation, s.incarnation FROM mcp_fabric.servers s
        LEFT JOIN credentials.mcp_credentials c ON c.server_id = s.id AND c.user_id = p_user AND c.env_var = p_env_var
        WHERE s.id = p_server AND s.erased_at IS NULL;
END $$;

-- Writes a value with its event: revision 1 makes the row, any other replaces the one before it. No row comes back
-- when somebody else was faster, or the key is not the active one any more.
CREATE FUNCTION credentials.put(
    p_actor text, p_id uuid, p_user text, p_server text, p_env_var text, p_value text, p_iv text, p_kek integer, p_wrapped bytea,
    p_commit bytea, p_rev bigint, p_kind text, p_expires timestamptz, p_incarnation integer, p_event text, p_pii text, p_mac bytea)
    RETURNS TABLE (created_at timestamptz, updated_at timestamptz)
    LANGUAGE plpgsql SET lock_timeout = '1500ms' AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('fabric.actor', p_actor, true);
    IF NOT EXISTS (SELECT FROM credentials.key_versions k WHERE k.version = p_kek AND k.state = 'active' FOR KEY SHARE) THEN
        RETURN;
    END IF;
    IF p_rev = 1 THEN
        RETURN QUERY INSERT INTO credentials.mcp_credentials AS c
            (id, user_id, server_id, env_var, encrypted_value, iv, alg, kek_version, wrapped_dek, key_commit, rev, kind, expires_at, incarnation)
            VALUES (p_id, p_user, p_server, p_env_var, p_value, p_iv, 1, p_kek, p_wrapped, p_commit, 1, p_kind, p_expires, p_incarnation)
            ON CONFLICT DO NOTHING RETURNING c.created_at, c.updated_at;
    ELSE
        RETURN QUERY UPDATE credentials.mcp_credentials AS c
            SET encrypted_value = p_value, iv = p_iv, alg = 1, kek_version = p_kek, wrapped_dek = p_wrapped, key_commit = p_commit,
                rev = p_rev, kind = p_kind, expires_at = p_expires, attested_at = now(),
                created_at = CASE WHEN c.incarnation = p_incarnation THEN c.created_at ELSE now() END, incarnation = p_incarnation
            WHERE c.id = p_id AND c.rev = p_rev - 1 RETURNING c.created_at, c.updated_at;
    END IF;
    IF FOUND THEN
        INSERT INTO audit.pending (event, pii, mac) VALUES (p_event, p_pii, p_mac);
    END IF;
END $$;

-- What there is, without values.
CREATE FUNCTION credentials.list(p_actor text, p_user text, p_server text)
    RETURNS TABLE (id uuid, server_id text, env_var text, kind text, created_at timestamptz, updated_at timestamptz,
                   last_used_at timestamptz, expires_at timestamptz, kek_version integer, rev bigint)
    LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('fabric.actor', p_actor, true);
    RETURN QUERY SELECT c.id, c.server_id, c.env_var, c.kind, c.created_at, c.updated_at, c.last_used_at, c.expires_at, c.kek_version, c.rev
        FROM credentials.mcp_credentials c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
        WHERE c.user_id = p_user AND c.server_id = p_server ORDER BY c.env_var;
END $$;

-- Records that plaintext is about to be given out, and gives what it is sealed in. Nobody has it before the record is
-- on disk, since both are one transaction.
CREATE FUNCTION credentials.reveal(p_user text, p_server text, p_env_vars text[], p_by text, p_event text, p_pii text, p_mac bytea)
    RETURNS TABLE (id uuid, env_var text, encrypted_value text, iv text, alg smallint, kek_version integer, wrapped_dek bytea,
                   key_commit bytea, rev bigint, expires_at timestamptz)
    LANGUAGE plpgsql SET lock_timeout = '1500ms' AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('fabric.actor', 'system:reveal', true);
    INSERT INTO audit.pending (event, pii, mac) VALUES (p_event, p_pii, p_mac);
    UPDATE credentials.mcp_credentials c SET last_used_at = now(), last_used_by = p_by, use_count = c.use_count + 1
        WHERE c.user_id = p_user AND c.server_id = p_server AND (p_env_vars IS NULL OR c.env_var = ANY (p_env_vars))
          AND (c.last_used_at IS NULL OR c.last_used_at < now() - interval '1 minute');
    RETURN QUERY SELECT c.id, c.env_var, c.encrypted_value, c.iv, c.alg, c.kek_version, c.wrapped_dek, c.key_commit, c.rev, c.expires_at
        FROM credentials.mcp_credentials c JOIN mcp_fabric.servers s ON s.id = c.server_id AND s.incarnation = c.incarnation
        WHERE c.user_id = p_user AND c.server_id = p_server AND (p_env_vars IS NULL OR c.env_var = ANY (p_env_vars));
END $$;

-- The public side may put values in and never get them out; only the reveal role can read what they are sealed in.
CREATE FUNCTION credentials.grant_roles(prefix text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    app    text := prefix || '_app';
    worker text := prefix || '_worker';
    reveal text := prefix || '_reveal';
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA credentials TO %I, %I, %I', app, worker, reveal);
    EXECUTE format('GRANT SELECT ON credentials.fabric, credentials.key_versions TO %I, %I, %I', app, worker, reveal);
    -- A lock on the row of a key takes the right to update something of it.
    EXECUTE format('GRANT UPDATE (wraps) ON credentials.key_versions TO %I, %I', app, worker);
    EXECUTE format('GRANT SELECT (id, user_id, server_id, env_var, created_at, updated_at, last_used_at, alg, kek_version, rev, kind, expires_at,
                    last_used_by, use_count, incarnation, attested_at), INSERT, UPDATE, DELETE ON credentials.mcp_credentials TO %I, %I', app, worker);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON credentials.key_versions, credentials.key_rotations TO %I', reveal);
    EXECUTE format('GRANT SELECT ON credentials.key_rotations TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON credentials.mcp_credentials, credentials.sealed_secrets, credentials.wrap_tokens TO %I', reveal);
    EXECUTE format('GRANT SELECT (id, incarnation, erased_at) ON mcp_fabric.servers TO %I', reveal);
END $$;
REVOKE ALL ON FUNCTION credentials.grant_roles(text) FROM PUBLIC;
