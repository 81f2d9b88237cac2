SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS version_number,
       session_user::text AS role,
       current_database()::text AS database,
       (SELECT oid FROM pg_database WHERE datname = current_database()) AS database_oid,
       pg_backend_pid() AS pid,
       inet_client_port() AS client_port,
       r.rolsuper AS is_superuser,
       NOT r.rolsuper AND pg_has_role(r.oid, 'pg_use_reserved_connections', 'USAGE') AS uses_reserved, -- 16+
       r.rolsuper OR pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE') AS can_see_all,
       r.rolsuper OR pg_has_role(r.oid, 'pg_signal_backend', 'USAGE') AS may_signal,
       (SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_stat_statements') AS statements_schema,
       -- How many clients hold a slot, ourselves among them; only asked where ours may be a reserved one.
       CASE WHEN r.rolsuper
              OR pg_has_role(r.oid, 'pg_use_reserved_connections', 'USAGE') -- 16+
            THEN (SELECT count(*) FROM pg_stat_get_activity(NULL)
                  WHERE CASE WHEN backend_type IS NULL THEN usesysid IS NOT NULL AND datid IS NOT NULL
                             ELSE backend_type = 'client backend' END)
            ELSE 0 END AS clients
FROM pg_roles r
WHERE r.rolname = session_user
