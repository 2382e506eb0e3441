-- Owner: users. Whom accounts of an external issuer of tokens (OpenID Connect) stand for here.
CREATE TABLE identity.external_identities (
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    user_id    uuid        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT external_identities_pkey PRIMARY KEY (issuer, subject),
    CONSTRAINT external_identities_user FOREIGN KEY (user_id) REFERENCES identity.users (id) ON DELETE CASCADE
);
CREATE INDEX external_identities_user_id ON identity.external_identities (user_id);
ALTER TABLE identity.external_identities ENABLE ROW LEVEL SECURITY;
ALTER TABLE identity.external_identities FORCE ROW LEVEL SECURITY;
CREATE POLICY external_identities_own ON identity.external_identities USING (mcp_fabric.acts_for('user:' || user_id));
