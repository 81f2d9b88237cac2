-- Only backends of this role that carry the name of this run, which no other run and no application has.
SELECT count(pg_terminate_backend(pid)) AS ended
FROM pg_stat_get_activity(NULL)
WHERE application_name = '{own}'
AND usesysid = (SELECT oid FROM pg_roles WHERE rolname = session_user)
AND pid <> pg_backend_pid()
