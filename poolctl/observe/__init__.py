"""What live systems look like: PostgreSQL, PgBouncer, Pgpool-II, the host, and what applications tell of their pools."""
