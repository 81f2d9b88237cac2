"""The stock. Leak 2: a generator that its caller does not exhaust keeps its connection."""


def low_items(pool, limit):
    """Yield the names of items of which fewer than ``limit`` are left."""
    connection = pool.getconn()
    for name, left in connection.execute("SELECT name, amount FROM stock ORDER BY amount"):
        if left < limit:
            yield name
    pool.putconn(connection)


def first_low_item(pool, limit):
    """Return one item that is low, or None."""
    items = low_items(pool, limit)
    first_low_item.last = items  # kept for the next page of the list, which is seldom asked for
    return next(items, None)
