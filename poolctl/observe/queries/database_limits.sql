SELECT d.datname::text AS name, d.datconnlimit AS connection_limit,
       (SELECT json_agg(setting)
        FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) AS setting
        WHERE s.setdatabase = d.oid AND s.setrole = 0) AS settings
FROM pg_database d
WHERE d.datallowconn
ORDER BY d.datconnlimit >= 0 DESC, d.datname
LIMIT 500
