"""The audit log. Leak 3: who holds a connection asks the same pool for a second one."""


def write(pool, text):
    """Add a line to the log, in a transaction of its own."""
    with pool.connection() as connection:
        connection.execute("INSERT INTO audit VALUES (%s)", (text,))


def change_price(pool, item, price):
    """Change the price of an item, and log it."""
    with pool.connection() as connection:
        connection.execute("UPDATE stock SET price = %s WHERE name = %s", (price, item))
        write(pool, f"{item} costs {price}")  # a second connection while the first one is held
