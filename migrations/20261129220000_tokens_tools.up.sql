-- Owner: users. The only tools that a token may be used for; null for all.
ALTER TABLE identity.tokens ADD COLUMN tools text[];
