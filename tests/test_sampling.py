"""The distributions of negatives, against counts by hand and against their own draws."""

import numpy as np
import pytest
import torch

from palate import sampling
from palate.losses import in_batch_softmax
from palate.types import ConfigError

ITEMS = np.array([3, 0, 3, 3, 1, 0, 3, 3], dtype=np.int32)  # item 2 never occurs


def test_frequencies_are_shares_of_the_events():
    q = sampling.frequencies(ITEMS, 5)
    assert q.tolist() == [2 / 8, 1 / 8, 0.0, 5 / 8, 0.0]


def test_frequencies_of_nothing_are_zero():
    assert sampling.frequencies(np.array([], dtype=np.int32), 3).tolist() == [0.0, 0.0, 0.0]


def test_mixture_by_hand():
    """A batch of 6 and 2 uniform ones: q* = 6/8 q + 2/8 u."""
    q = sampling.frequencies(ITEMS, 4)
    u = sampling.uniform(np.array([True, True, False, True]))
    mixed = sampling.mixture(q, 6, u, 2)
    np.testing.assert_allclose(mixed, [0.75 * 0.25 + 0.25 / 3, 0.75 * 0.125 + 0.25 / 3, 0.0, 0.75 * 0.625 + 0.25 / 3])
    assert mixed.sum() == pytest.approx(1.0)


def test_mixture_is_what_is_drawn():
    """The share of each item among real draws of a batch and of uniform negatives approaches q*."""
    rng = np.random.default_rng(0)
    q = sampling.frequencies(ITEMS, 4)
    pool = np.array([0, 1, 2, 3], dtype=np.int32)
    batch, beside = 30, 10
    drawn = np.concatenate(
        [np.r_[rng.choice(ITEMS, batch), sampling.draw_uniform(pool, beside, rng)] for _ in range(2000)],
    )
    expected = sampling.mixture(q, batch, sampling.uniform(np.ones(4, dtype=bool)), beside)
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), expected, atol=0.006)


def test_draws_stay_in_the_pool_and_follow_the_seed():
    pool = np.array([7, 2, 9], dtype=np.int32)
    first = sampling.draw_uniform(pool, 500, np.random.default_rng(3))
    again = sampling.draw_uniform(pool, 500, np.random.default_rng(3))
    assert set(first.tolist()) == {2, 7, 9}
    assert first.dtype == np.int32
    np.testing.assert_array_equal(first, again)


def test_log_probabilities_of_an_item_never_drawn():
    logs = sampling.log_probabilities(np.array([0.5, 0.0]))
    np.testing.assert_allclose(logs, [np.log(0.5), -np.inf], rtol=1e-6)
    assert logs.dtype == np.float32


def test_powered_by_hand() -> None:
    """Shares 16 : 1 : 0 : 81 to the power 1/2 are 4 : 1 : 0 : 9; to the power 0, alike where there is any."""
    q = np.array([16, 1, 0, 81]) / 98
    np.testing.assert_allclose(sampling.powered(q, 0.5), np.array([4, 1, 0, 9]) / 14)
    np.testing.assert_allclose(sampling.powered(q, 0.0), np.array([1, 1, 0, 1]) / 3)
    np.testing.assert_allclose(sampling.powered(q, 1.0), q)
    assert sampling.powered(np.zeros(2), 0.75).tolist() == [0.0, 0.0]


def test_draws_follow_the_distribution() -> None:
    q = np.array([0.5, 0.0, 0.2, 0.3])
    drawn = sampling.draw(np.cumsum(q), (200, 100), np.random.default_rng(0))
    assert drawn.shape == (200, 100)
    assert drawn.dtype == np.int32
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=4) / drawn.size, q, atol=0.01)


# -- a stream ------------------------------------------------------------------------------------------------------------------------


def test_streaming_frequency_by_hand() -> None:
    """Rate 1/4, gaps start at 8. Item 5 is seen at steps 1, 2, 4, twice in the last batch, which is one sighting.

    B: 8 -> 3/4 8 + 1/4 (1 - 0) = 6.25 -> 3/4 6.25 + 1/4 = 4.9375 -> 3/4 4.9375 + 2/4 = 4.203125. Item 2 at step 3: 6 + 3/4 = 6.75.
    """
    stream = sampling.StreamingFrequency(8, rate=0.25, start=8.0)
    for batch in ([5], [5, 0], [2], [5, 5]):
        stream.update(np.array(batch, dtype=np.int32))
    np.testing.assert_allclose(1 / stream.probabilities(np.array([5, 2, 7], dtype=np.int32)), [4.203125, 6.75, 8.0])
    assert stream.last[0].tolist() == [2, 0, 3, 0, 0, 4, 0, 0]


def test_streaming_frequency_finds_how_often_and_follows_a_change() -> None:
    rng = np.random.default_rng(0)
    stream = sampling.StreamingFrequency(16, rate=0.02, start=4.0)
    rates = np.array([0.9, 0.5, 0.2, 0.05])

    def pass_by(chances: np.ndarray, steps: int) -> np.ndarray:
        for _ in range(steps):
            stream.update(np.flatnonzero(rng.random(4) < chances).astype(np.int32))
        return stream.probabilities(np.arange(4, dtype=np.int32))

    np.testing.assert_allclose(pass_by(rates, 4000), rates, rtol=0.25)
    np.testing.assert_allclose(pass_by(rates[::-1], 4000), rates[::-1], rtol=0.25)


def test_several_hash_functions_undo_collisions() -> None:
    """Items 1 and 9 share place 1 of 8 in the first array: alone, the rare one takes the other's frequency."""
    one, two = (sampling.StreamingFrequency(8, rate=0.05, start=50.0, hashes=hashes) for hashes in (1, 3))
    apart = [np.unique([row[0] for row in sampling.slots(np.array([code]), 8, 3)]) for code in (1, 9)]
    assert apart[0].tolist() != apart[1].tolist()
    for step in range(1000):
        batch = np.array([1, 9] if step % 50 == 0 else [1], dtype=np.int32)
        one.update(batch)
        two.update(batch)
    rare = np.array([9], dtype=np.int32)
    assert one.probabilities(rare)[0] > 0.9
    assert two.probabilities(rare)[0] < 0.05
    assert two.probabilities(np.array([1], dtype=np.int32))[0] > 0.9


def test_the_number_of_hash_functions_is_bounded() -> None:
    with pytest.raises(ConfigError, match="hashes: expected 1 to 4, got 9"):
        sampling.slots(np.array([1]), 8, 9)


# -- negatives of a row's own ----------------------------------------------------------------------------------------------------------


def codes(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_shown_not_wanted_by_hand() -> None:
    """User 0 saw 3, 1, 3, 2 and wanted 1 (later); user 1 saw 1; user 2 nothing."""
    found = sampling.shown_not_wanted((codes(0, 0, 1, 0, 0), codes(3, 1, 1, 3, 2)), (codes(0, 2), codes(1, 0)), 3, 4)
    assert [found[user].tolist() for user in range(3)] == [[2, 3], [1], []]


def test_draws_of_each_row_come_from_its_own_bag() -> None:
    bags = sampling.Ragged.of([[4, 5], [], [7]])
    drawn = sampling.draw_of_each(bags, np.array([2, 1, 0, 0]), 300, np.random.default_rng(0))
    assert (drawn[0] == 7).all()
    assert (drawn[1] == -1).all()
    assert set(drawn[2].tolist()) == {4, 5}
    assert 0.4 < (drawn[2:] == 4).mean() < 0.6
    assert (sampling.draw_of_each(sampling.Ragged.of([[], []]), np.array([0, 1]), 2, np.random.default_rng(0)) == -1).all()


def test_hardest_by_hand() -> None:
    """The positive goes first, then the `skip` best; what is missing is NOTHING."""
    found = codes(9, 4, 7, 1, 3, 8, 2, 6, 5, -1).reshape(2, 5)
    assert sampling.hardest(found, codes(4, 8), size=2, skip=1).tolist() == [[7, 1], [6, 5]]
    assert sampling.hardest(found, codes(0, 0), size=3, skip=3).tolist() == [[1, 3, -1], [5, -1, -1]]
    assert sampling.hardest(found, codes(0, 0), size=2, skip=9).tolist() == [[-1, -1], [-1, -1]]


def test_wanted_oracle_a_literal_loop() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 6, 60).astype(np.int32), rng.integers(0, 20, 60).astype(np.int32)
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    wanted = sampling.Wanted(users, items, 6, 20)
    some, shared, own = codes(5, 0, 0, 3), rng.integers(0, 20, 15).astype(np.int32), rng.integers(0, 20, (4, 9)).astype(np.int32)
    assert wanted.among(some, shared).tolist() == [[(u, i) in pairs for i in shared.tolist()] for u in some.tolist()]
    assert wanted.each(some, own).tolist() == [[(u, i) in pairs for i in row] for u, row in zip(some.tolist(), own.tolist(), strict=True)]
    nothing = sampling.Wanted(codes(), codes(), 6, 20)
    assert not nothing.among(some, shared).any()
    assert not nothing.each(some, own).any()


# -- what the papers promise -----------------------------------------------------------------------------------------------------------


def learnt(negatives: str) -> tuple[np.ndarray, np.ndarray]:
    """A world in which everybody wants alike, 300 items, p_k ~ k^-0.8: what scores a softmax over B = 16 positives ends with.

    One free score an item, random at first; rows draw their positive from p. log q is the streaming estimate.
    Returns log p and the learnt scores, both centred.
    """
    n, b, beside, steps = 300, 16, 48, 500
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    p = 1 / np.arange(1, n + 1) ** 0.8
    p /= p.sum()
    stream = sampling.StreamingFrequency(n, rate=0.02, start=n / b)
    scores = torch.randn(n, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.05)
    for _ in range(steps):
        batch = sampling.draw(np.cumsum(p), b, rng)
        stream.update(batch)
        items = np.r_[batch, sampling.draw_uniform(np.arange(n, dtype=np.int32), beside, rng)] if negatives == "mixed" else batch
        q = stream.probabilities(items) / b  # of a draw, near enough: a batch has b
        if negatives == "mixed":
            q = sampling.mixture(q, b, np.full(len(items), 1 / n), beside)
        log_q = None if negatives == "in_batch" else torch.from_numpy(np.log(q)).float()
        columns = torch.from_numpy(items).long()
        loss = in_batch_softmax(scores[columns].expand(b, -1), columns, log_q=log_q)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = scores.detach().numpy()
    return np.log(p) - np.log(p).mean(), found - found.mean()


def test_the_level_of_head_and_tail_scores() -> None:
    """In-batch alone finds no difference, log q most of it, mixed sampling all: Yi et al. 2019, section 3; Yang et al. 2020."""
    wanted, alone = learnt("in_batch")
    _, corrected = learnt("in_batch_log_q")
    _, mixed = learnt("mixed")
    head, tail = slice(0, 10), slice(100, 300)

    def lead(scores: np.ndarray) -> float:
        return float(scores[head].mean() - scores[tail].mean())

    assert lead(alone) < 0.1 * lead(wanted)
    assert 0.5 * lead(wanted) < lead(corrected) < 0.75 * lead(wanted)  # the tail is seldom a negative, and stands too high
    assert 0.8 * lead(wanted) < lead(mixed) < 1.1 * lead(wanted)


GROUPS, N, HEAD = 6, 600, 4


def tastes(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p(item | group) [GROUPS, N], and which items are of the head, and which nobody ever wants.

    Each group has 100 items of its own. Four are wanted six times in ten; of the 96 others 40 % are wanted by nobody, the rest alike. One
    time in fifty a group wants what is another's. A batch of 32 holds an item of the tail once in 45 batches, and the unwanted never.
    """
    rng = np.random.default_rng(seed)
    group, head = np.arange(N) % GROUPS, np.arange(N) < GROUPS * HEAD
    unwanted = ~head & (rng.random(N) < 0.4)
    weight = np.where(head, 0.6 / HEAD, np.where(unwanted, 0, 0.4 / (0.6 * (N // GROUPS - HEAD))))
    p = np.where(group == np.arange(GROUPS)[:, None], 0.98, 0.02 / (GROUPS - 1)) * weight
    return p / p.sum(axis=1, keepdims=True), head, unwanted


def ranked(p: np.ndarray, negatives: str, b: int, beside: int, seed: int) -> np.ndarray:
    """The items of each group, best first, after 250 batches: a vector a group, an item's is that of its kind plus its own. [GROUPS, N]"""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    users, kinds, own = (torch.randn(rows, 8, generator=generator).mul_(8**-0.5).requires_grad_() for rows in (GROUPS, GROUPS, N))
    optimizer = torch.optim.Adam([users, kinds, own], lr=0.05)
    stream, kind = sampling.StreamingFrequency(N, rate=0.02, start=N / b), torch.arange(N) % GROUPS
    for _ in range(250):
        groups = rng.integers(0, GROUPS, b)
        items = np.array([sampling.draw(cumulative, 1, rng)[0] for cumulative in p.cumsum(axis=1)[groups]], dtype=np.int32)
        stream.update(items)
        if negatives == "mixed":
            items = np.r_[items, sampling.draw_uniform(np.arange(N, dtype=np.int32), beside, rng)]
        q = stream.probabilities(items) / b
        if negatives == "mixed":
            q = sampling.mixture(q, b, np.full(len(items), 1 / N), beside)
        codes = torch.from_numpy(items).long()
        scores = users[torch.from_numpy(groups)] @ (own[codes] + kinds[kind[codes]]).t()
        loss = in_batch_softmax(scores, codes, log_q=None if negatives == "in_batch" else torch.from_numpy(np.log(q)).float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return (users @ (own + kinds[kind]).t()).argsort(1, descending=True).numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_batch_depresses_the_popular_log_q_mends_it_and_mixed_sampling_helps_the_tail(seed: int) -> None:
    """Recall of the next item in full ranking, on queries that want the head and on queries that want the tail.

    What is never a positive is never an in-batch negative, whatever is taken off the logits: unwanted items keep the place their kind
    gives them, in front of what people want, even in batches as large as the mixed ones. Uniform draws push them down (the argument of
    Yang et al. 2020).
    """
    p, head, unwanted = tastes(seed)
    lists = {
        (negatives, b): ranked(p, negatives, b, beside, seed)
        for negatives, b, beside in (("in_batch", 32, 0), ("in_batch_log_q", 32, 0), ("in_batch_log_q", 64, 0), ("mixed", 32, 32))
    }

    def recall(order: np.ndarray, k: int, part: np.ndarray) -> float:
        """For queries whose next item is drawn from p within a part of the items."""
        within = np.where(part, p, 0) / np.where(part, p, 0).sum(axis=1, keepdims=True)
        return float(np.take_along_axis(within, order[:, :k], 1).sum(axis=1).mean())

    def share(order: np.ndarray, k: int) -> float:
        return float(unwanted[order[:, :k]].mean())

    alone, corrected, larger, mixed = lists.values()
    assert recall(alone, HEAD, head) < 0.3
    for order in (corrected, larger, mixed):
        assert recall(order, HEAD, head) > 0.85
    for order in (alone, corrected, larger):
        assert recall(mixed, 60, ~head) > recall(order, 60, ~head) + 0.05
        assert share(mixed, 60) < 0.5 * share(order, 60)
    assert recall(mixed, 60, ~head) > 0.85
