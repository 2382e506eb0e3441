-- Owner: credentials. A value is written with its event, or as one of many that an event of the same transaction tells of.
CREATE OR REPLACE FUNCTION credentials.put(
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
    IF FOUND AND p_event IS NOT NULL THEN
        INSERT INTO audit.pending (event, pii, mac) VALUES (p_event, p_pii, p_mac);
    END IF;
END $$;
