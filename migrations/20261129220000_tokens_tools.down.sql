ALTER TABLE identity.tokens DROP COLUMN tools;
