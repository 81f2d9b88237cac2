-- What counts against each limit that can refuse this role: all clients for the server; clients and walsenders for the
-- role and the database. {own}: the application_name of the load that poolctl makes. Limits do not bind superusers.
SELECT current_setting('server_version') AS version,
       current_setting('max_connections')::int AS max_connections,
       current_setting('superuser_reserved_connections')::int
       + coalesce(current_setting('reserved_connections', true)::int, 0)
       + coalesce(current_setting('rds.rds_superuser_reserved_connections', true)::int, 0) AS reserved,
       r.rolname::text AS role, d.datname::text AS database,
       CASE WHEN r.rolsuper THEN -1 ELSE r.rolconnlimit END AS role_limit,
       CASE WHEN r.rolsuper THEN -1 ELSE d.datconnlimit END AS database_limit,
       pg_backend_pid() AS pid, inet_client_port() AS client_port,
       used.*,
       (SELECT date_part('epoch', backend_start) FROM pg_stat_get_activity(pg_backend_pid())) AS started_at
FROM pg_roles r
CROSS JOIN pg_database d
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE is_client) AS clients,
           count(*) FILTER (WHERE is_client AND is_own) AS own,
           count(*) FILTER (WHERE usesysid = r.oid) AS role_clients,
           count(*) FILTER (WHERE usesysid = r.oid AND is_own) AS role_own,
           count(*) FILTER (WHERE datid = d.oid) AS database_clients,
           count(*) FILTER (WHERE datid = d.oid AND is_own) AS database_own,
           json_agg(json_build_array(application_name, date_part('epoch', backend_start), pid))
           FILTER (WHERE application_name LIKE 'poolctl %') AS runs
    FROM (
        SELECT pid, usesysid, datid, application_name, backend_start,
               -- Rows of other roles are hidden from an ordinary one; workers have no user or no database.
               CASE WHEN backend_type IS NULL THEN usesysid IS NOT NULL AND datid IS NOT NULL
                    ELSE backend_type = 'client backend' END AS is_client,
               coalesce(application_name = '{own}', false) AS is_own
        FROM pg_stat_get_activity(NULL)
        WHERE pid <> pg_backend_pid()
        AND coalesce(backend_type, 'client backend') IN ('client backend', 'walsender')
    ) AS backends
) AS used
WHERE r.rolname = session_user
AND d.datname = current_database()
