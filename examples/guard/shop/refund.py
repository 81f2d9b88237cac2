"""Refunds. Leak 1: an error between acquire and release."""


class CardRejected(Exception):
    """The bank does not take the card."""


def ask_bank(card):
    """Raise CardRejected for a card that the bank does not take."""
    if card == "stolen":
        raise CardRejected(card)


def charge(pool, order, card):
    """Refund ``order`` to ``card``."""
    connection = pool.getconn()
    connection.execute("UPDATE orders SET refunded = true WHERE id = %s", (order,))
    ask_bank(card)  # raises, and nothing below this line runs
    connection.commit()
    pool.putconn(connection)
