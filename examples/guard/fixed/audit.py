"""The audit log. Fix 3: pass the connection down."""


def write(connection, text):
    """Add a line to the log, in the caller's transaction."""
    connection.execute("INSERT INTO audit VALUES (%s)", (text,))


def change_price(pool, item, price):
    """Change the price of an item, and log it."""
    with pool.connection() as connection:
        connection.execute("UPDATE stock SET price = %s WHERE name = %s", (price, item))
        write(connection, f"{item} costs {price}")
