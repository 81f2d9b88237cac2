"""The shop's tests. Without the guard all of them pass."""

import pytest


def test_accepted_card(shop, pool):
    shop.refund.charge(pool, 1, "good")


def test_rejected_card(shop, pool):
    with pytest.raises(shop.refund.CardRejected):
        shop.refund.charge(pool, 2, "stolen")


def test_low_item(shop, pool):
    assert shop.stock.first_low_item(pool, 5) == "item 1"


def test_change_price(shop, pool):
    shop.audit.change_price(pool, "item 3", 12)
