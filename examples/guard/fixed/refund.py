"""Refunds. Fix 1: a with block releases on every path."""

from shop.refund import CardRejected, ask_bank

__all__ = ["CardRejected", "charge"]


def charge(pool, order, card):
    """Refund ``order`` to ``card``."""
    with pool.connection() as connection:
        connection.execute("UPDATE orders SET refunded = true WHERE id = %s", (order,))
        ask_bank(card)
