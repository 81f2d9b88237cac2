"""What live systems look like: PostgreSQL, PgBouncer, Pgpool-II, the host, and applications' own pools."""
