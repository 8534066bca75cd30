"""Subsequences, and attention over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.model.attention import TargetAttention
from training.model.packing import pack


def slow_pack(theme, mask, num_themes, capacity):
    """The newest events of each theme as lists of positions."""
    return [
        [[i for i in range(len(row)) if keep[i] and row[i] == theme][-capacity:] for theme in range(num_themes)]
        for row, keep in zip(theme.tolist(), mask.tolist(), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), capacity=st.integers(1, 12), length=st.integers(1, 12))
def test_packing_keeps_the_newest_events_of_each_theme_in_time_order(data, capacity, length):
    events = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=length, max_size=length)
    users = data.draw(st.lists(events, min_size=1, max_size=3))
    theme = torch.tensor([[event[0] for event in user] for user in users])
    mask = torch.tensor([[event[1] for event in user] for user in users])
    packed = pack(theme, mask, 3, capacity)
    found = [
        [p[m].tolist() for p, m in zip(user_p, user_m, strict=True)]
        for user_p, user_m in zip(packed.position_UTC, packed.mask_UTC, strict=True)
    ]
    assert found == slow_pack(theme, mask, 3, capacity)
    assert packed.position_UTC.min() >= 0
    assert packed.position_UTC.max() < length


@pytest.fixture
def sequence():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 10, 8, generator=generator, dtype=torch.float64)
    theme = torch.randint(0, 4, (3, 10), generator=generator)
    mask = torch.rand(3, 10, generator=generator) < 0.8
    query = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    return query, x, theme, mask


def test_the_sum_over_all_themes_equals_full_attention(sequence):
    query, x, theme, mask = sequence
    attend = TargetAttention(8, 16, "din").double()
    ones = torch.ones(3, 10).double()

    def unscaled(keep):  # the published form divides by the root of the count
        return attend(query, x, attend.keys(x), ones, keep) * keep.sum(1, keepdim=True).double().sqrt()

    parts = sum(unscaled(mask & (theme == k)) for k in range(4))
    torch.testing.assert_close(parts, unscaled(mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["din", "dot"])
def test_masked_attention_equals_packed_attention(sequence, kind):
    query, x, theme, mask = sequence
    attend = TargetAttention(8, 16, kind).double()
    weight = torch.rand(3, 10).double()
    packed = pack(theme, mask, 4, 10)
    for k in range(4):
        masked = attend(query, x, attend.keys(x), weight, mask & (theme == k))
        position = packed.position_UTC[:, k]
        own = x.gather(1, position.unsqueeze(-1).expand(-1, -1, 8))
        read = attend(query, own, attend.keys(own), weight.gather(1, position), packed.mask_UTC[:, k])
        torch.testing.assert_close(read, masked, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["din", "dot"])
def test_an_empty_sequence_reads_as_zero(kind):
    attend = TargetAttention(8, 16, kind)
    x = torch.randn(2, 5, 8)
    read = attend(torch.randn(2, 8), x, attend.keys(x), torch.ones(2, 5), torch.zeros(2, 5, dtype=torch.bool))
    assert torch.equal(read, torch.zeros(2, 8))


def test_din_attention_equals_the_formula_written_out(sequence):
    query, x, _, mask = sequence
    attend = TargetAttention(8, 16, "din").double()
    weight = torch.rand(3, 10).double()
    found = attend(query, x, attend.keys(x), weight, mask)
    for b in range(3):
        total = torch.zeros(8).double()
        for j in range(10):
            if mask[b, j]:
                inner = attend.query(query[b]) + attend.key(x[b, j]) + attend.product(query[b] * x[b, j])
                total += torch.sigmoid(attend.out(torch.nn.functional.leaky_relu(inner))) * weight[b, j] * x[b, j]
        torch.testing.assert_close(found[b], total / mask[b].sum().double().sqrt(), rtol=0, atol=1e-12)
