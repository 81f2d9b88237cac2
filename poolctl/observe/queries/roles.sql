SELECT r.rolname::text AS name, r.rolconnlimit AS connection_limit, r.rolsuper AS is_superuser,
       NOT r.rolsuper AND pg_has_role(r.oid, 'pg_use_reserved_connections', 'USAGE') AS uses_reserved, -- 16+
       (SELECT json_agg(setting ORDER BY s.setdatabase)
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS setting
        WHERE s.setrole = r.oid) AS settings
FROM pg_roles r
WHERE r.rolcanlogin
ORDER BY r.rolconnlimit >= 0 DESC,
         r.oid IN (SELECT usesysid FROM pg_stat_get_activity(NULL) WHERE usesysid IS NOT NULL) DESC,
         r.rolname
LIMIT 500
