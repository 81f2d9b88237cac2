"""From an answer to the blocks for the stacks that were asked for."""

import pytest
import recommendations
from hypothesis import given as examples
from hypothesis import settings
from hypothesis import strategies as st

from poolctl.errors import BadInput
from poolctl.sizing.defaults import fill_defaults
from poolctl.sizing.figures import Figures, given
from poolctl.sizing.recommend import recommend
from poolctl.stacks import STACKS
from poolctl.stacks.advice import advise_pool, write_configs

VECTOR = recommendations.VECTOR


def blocks(figures: Figures, *stacks: str) -> dict[str, str]:
    known, _ = fill_defaults(figures)
    return {config.stack: config.text for config in write_configs(recommend(figures), known, stacks)[0]}


def test_jitter_on_top_of_a_lifetime_becomes_a_share_of_the_longest_life() -> None:
    advice = advise_pool(recommend(VECTOR))

    assert (advice.max_lifetime, advice.least_lifetime, advice.jitter_time) == (1800.0, 1500.0, 300.0)
    assert advice.max_lifetime_jitter == pytest.approx(1 / 6)


def test_the_worst_fleet_stands_in_every_block() -> None:
    assert "2 connections in each of 36 processes: 72 at worst." in blocks(VECTOR, "pgxpool")["pgxpool"]


def test_a_pooler_is_written_for_whoever_has_one_though_none_is_needed() -> None:
    answer = recommend(VECTOR)
    text = blocks(VECTOR, "pgbouncer")["pgbouncer"]

    assert not answer.pooler.recommended
    assert "pool_mode = transaction" in text
    assert "max_db_connections = 82" in text


def test_behind_a_pooler_that_is_needed_the_pools_are_as_large_as_their_workers() -> None:
    starved = VECTOR.with_(wait_target=given(0.005))

    assert "MaxConns = 2" in blocks(starved, "pgxpool")["pgxpool"]
    assert "MaxConns = 4" in blocks(starved, "pgxpool", "pgbouncer")["pgxpool"]


def test_a_refusal_has_no_blocks_and_says_so() -> None:
    figures, _ = fill_defaults(VECTOR.with_(max_connections=given(40)))

    assert write_configs(recommend(figures), figures, ("pgxpool",)) == (
        (),
        "Without a recommended size no configuration is written",
    )
    assert write_configs(recommend(figures), figures, ()) == ((), "")


def test_a_refusal_is_no_advice() -> None:
    with pytest.raises(ValueError, match="a refusal has no sizes"):
        advise_pool(recommend(VECTOR.with_(max_connections=given(40))))


def test_a_stack_that_is_not_known_is_refused_with_the_nearest() -> None:
    figures, _ = fill_defaults(VECTOR)

    with pytest.raises(BadInput, match="did you mean hikaricp"):
        write_configs(recommend(figures), figures, ("hikari-cq",))


@examples(
    st.floats(0.1, 2000), st.floats(0.0005, 5), st.integers(1, 20), st.integers(10, 1000), st.sampled_from(list(STACKS))
)
@settings(max_examples=80, deadline=None)
def test_whatever_is_recommended_can_be_written_for_every_stack(
    rate: float, hold: float, instances: int, slots: int, stack: str
) -> None:
    figures, _ = fill_defaults(
        Figures(
            arrival_rate=given(rate), hold_time=given(hold), instances=given(instances), max_connections=given(slots)
        )
    )
    answer = recommend(figures)

    configs, _ = write_configs(answer, figures, (stack,))

    assert len(configs) == (0 if answer.is_refused else 1)
