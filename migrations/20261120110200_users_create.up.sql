-- Owner: users. Accounts, their sessions and tokens, and what is remembered of failed logins.
CREATE SCHEMA identity;

-- For every table that has it: `updated_at` says when a row last changed.
CREATE FUNCTION mcp_fabric.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END $$;

CREATE TABLE identity.users (
    id              uuid        NOT NULL DEFAULT gen_random_uuid(),
    email           text        NOT NULL,
    hashed_password text        NOT NULL,
    role            text        NOT NULL DEFAULT 'member',
    disabled_at     timestamptz,
    created_at      timestamptz NOT NULL DEFAULT now(),
    updated_at      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email UNIQUE (email),
    CONSTRAINT users_role CHECK (role IN ('admin', 'member', 'auditor'))
);
CREATE TRIGGER users_touch BEFORE UPDATE ON identity.users FOR EACH ROW EXECUTE FUNCTION mcp_fabric.touch();
ALTER TABLE identity.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.users FORCE ROW LEVEL SECURITY;
CREATE POLICY users_own ON identity.users USING (mcp_fabric.acts_for('user:' || id));

-- A login; its refresh tokens are one family.
CREATE TABLE identity.sessions (
    id         uuid        NOT NULL,
    user_id    uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT sessions_pkey PRIMARY KEY (id),
    CONSTRAINT sessions_user FOREIGN KEY (user_id) REFERENCES identity.users (id) ON DELETE CASCADE
);
CREATE INDEX sessions_user_id ON identity.sessions (user_id);
CREATE INDEX sessions_expiry ON identity.sessions (expires_at);
ALTER TABLE identity.sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY sessions_own ON identity.sessions USING (mcp_fabric.acts_for('user:' || user_id));

CREATE TABLE identity.refresh_tokens (
    hash       bytea       NOT NULL,
    session_id uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at    timestamptz,
    CONSTRAINT refresh_tokens_pkey PRIMARY KEY (hash),
    CONSTRAINT refresh_tokens_session FOREIGN KEY (session_id) REFERENCES identity.sessions (id) ON DELETE CASCADE
);
CREATE INDEX refresh_tokens_session_id ON identity.refresh_tokens (session_id);
ALTER TABLE identity.refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY refresh_tokens_own ON identity.refresh_tokens USING (mcp_fabric.acts_for(NULL));

-- Personal access tokens, service tokens, operator tokens: one format, one table.
CREATE TABLE identity.tokens (
    id           uuid        NOT NULL,
    handle       text        NOT NULL,
    kind         text        NOT NULL,
    user_id      uuid,
    name         text        NOT NULL,
    hash         bytea       NOT NULL,
    scopes       text[]      NOT NULL,
    servers      text[],
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    last_used_at timestamptz,
    revoked_at   timestamptz,
    CONSTRAINT tokens_pkey PRIMARY KEY (id),
    CONSTRAINT tokens_handle UNIQUE (handle),
    CONSTRAINT tokens_kind CHECK (kind IN ('personal', 'service', 'operator')),
    CONSTRAINT tokens_owner CHECK ((kind = 'personal') = (user_id IS NOT NULL)),
    CONSTRAINT tokens_user FOREIGN KEY (user_id) REFERENCES identity.users (id) ON DELETE CASCADE
);
CREATE INDEX tokens_user_id ON identity.tokens (user_id);
ALTER TABLE identity.tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tokens_own ON identity.tokens USING (mcp_fabric.acts_for('user:' || user_id));

CREATE TABLE identity.invites (
    id         uuid        NOT NULL,
    email      text,
    role       text        NOT NULL,
    hash       bytea       NOT NULL,
    created_by text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at    timestamptz,
    CONSTRAINT invites_pkey PRIMARY KEY (id),
    CONSTRAINT invites_hash UNIQUE (hash),
    CONSTRAINT invites_role CHECK (role IN ('admin', 'member', 'auditor'))
);
ALTER TABLE identity.invites ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.invites FORCE ROW LEVEL SECURITY;
CREATE POLICY invites_own ON identity.invites USING (mcp_fabric.acts_for(NULL));

-- Failed logins by account and by address; the key is a keyed hash, so that it names nobody.
CREATE TABLE identity.login_failures (
    key          bytea       NOT NULL,
    failures     integer     NOT NULL,
    first_at     timestamptz NOT NULL,
    locked_until timestamptz,
    CONSTRAINT login_failures_pkey PRIMARY KEY (key)
);
ALTER TABLE identity.login_failures ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.login_failures FORCE ROW LEVEL SECURITY;
CREATE POLICY login_failures_own ON identity.login_failures USING (mcp_fabric.acts_for(NULL));

CREATE FUNCTION identity.grant_roles(prefix text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['app', 'worker'] LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA identity TO %I', prefix || '_' || role);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA identity TO %I', prefix || '_' || role);
    END LOOP;
END $$;
REVOKE ALL ON FUNCTION identity.grant_roles(text) FROM PUBLIC;
