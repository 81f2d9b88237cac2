-- Read before anything is set in the session. A value that the role, the database or the client's options decided is
-- not the server's: its source says so. The show hooks of tcp_keepalives_* give what this connection really has.
SELECT name, setting, unit, vartype,
       source IN ('default', 'environment variable', 'configuration file', 'command line', 'override', 'global')
       AS is_server_wide
FROM pg_settings
WHERE vartype IN ('bool', 'integer', 'real')
AND name IN (
    'authentication_timeout', 'autovacuum_max_workers', 'client_connection_check_interval', 'deadlock_timeout',
    'idle_in_transaction_session_timeout', 'idle_session_timeout', 'lock_timeout', 'max_connections',
    'max_parallel_workers', 'max_parallel_workers_per_gather', 'max_prepared_transactions', 'max_wal_senders',
    'max_worker_processes', 'rds.rds_superuser_reserved_connections', 'reserved_connections', 'shared_buffers',
    'statement_timeout', 'superuser_reserved_connections', 'tcp_keepalives_count', 'tcp_keepalives_idle',
    'tcp_keepalives_interval', 'tcp_user_timeout', 'track_activities', 'track_activity_query_size', 'track_counts',
    'track_io_timing', 'transaction_timeout', 'update_process_title', 'work_mem'
)
