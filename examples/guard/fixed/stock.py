"""The stock. Fix 2: read the rows, release, then hand them out."""


def low_items(pool, limit):
    """Return the names of items of which fewer than ``limit`` are left."""
    with pool.connection() as connection:
        rows = connection.execute("SELECT name, amount FROM stock ORDER BY amount").fetchall()
    return [name for name, left in rows if left < limit]


def first_low_item(pool, limit):
    """Return one item that is low, or None."""
    return next(iter(low_items(pool, limit)), None)
