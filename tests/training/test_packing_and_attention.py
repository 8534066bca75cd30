"""Subsequences, and attention over them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.model.backbones.choose import make_backbone
from training.model.backbones.din import DinAttention, _Logits
from training.model.build import ALONE
from training.model.packing import pack

ATTENDING = [name for name in ALONE if name != "sasrec"]
"""Backbones whose reads do not hang on which slot an event stands in."""


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
    attend = DinAttention(8, 16).double()

    def unscaled(keep):  # ours divides by the root of the count
        return attend.read(query, x, None, keep) * keep.sum(1, keepdim=True).double().sqrt()

    parts = sum(unscaled(mask & (theme == k)) for k in range(4))
    torch.testing.assert_close(parts, unscaled(mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ATTENDING)
def test_masked_attention_equals_packed_attention(sequence, shape, name):
    query, x, theme, mask = sequence
    backbone = make_backbone(name, 8, shape).double()
    events = backbone.events(x, torch.randint(0, shape.num_contexts, (3, 10)), mask, theme)
    weight = torch.rand(3, 10).double()
    packed = pack(theme, mask, 4, 10)
    for k in range(4):
        masked = backbone.read(query, events, weight, mask & (theme == k))
        position = packed.position_UTC[:, k]
        own = events.gather(1, position.unsqueeze(-1).expand(-1, -1, events.shape[2]))
        read = backbone.read(query, own, weight.gather(1, position), packed.mask_UTC[:, k])
        torch.testing.assert_close(read, masked, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ALONE)
def test_a_theme_is_encoded_as_if_it_were_a_sequence_of_its_own(sequence, shape, name):
    _, x, theme, _ = sequence
    everything = torch.ones(3, 10, dtype=torch.bool)
    backbone, context = make_backbone(name, 8, shape).double(), torch.randint(0, shape.num_contexts, (3, 10))
    events = backbone.events(x, context, everything, theme)
    for user in range(3):
        for k in range(4):
            own = (theme[user] == k).nonzero().squeeze(1)
            if not len(own):
                continue
            one = everything[:1, : len(own)]
            alone = backbone.events(x[user : user + 1, own], context[user : user + 1, own], one)
            torch.testing.assert_close(events[user, own], alone[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_an_encoder_never_looks_ahead(sequence, shape, name):
    _, x, theme, mask = sequence
    backbone, context = make_backbone(name, 8, shape).double(), torch.zeros(3, 10, dtype=torch.int64)
    later = x.clone()
    later[:, 6:] = 7.0
    for themes in (None, theme):
        before, after = (backbone.events(each, context, mask, themes)[:, :6] for each in (x, later))
        assert torch.equal(before, after)


@pytest.mark.parametrize("name", ALONE)
def test_an_empty_sequence_reads_as_zero(shape, name):
    backbone, none = make_backbone(name, 8, shape), torch.zeros(2, 5, dtype=torch.bool)
    events = backbone.events(torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64), none)
    assert torch.equal(backbone.read(torch.randn(2, 8), events, torch.ones(2, 5), none), torch.zeros(2, 8))


def test_din_attention_equals_the_formula_written_out(sequence):
    query, x, _, mask = sequence
    attend = DinAttention(8, 16).double()
    weight = torch.rand(3, 10).double()
    found = attend.read(query, x, weight, mask)
    for b in range(3):
        total = torch.zeros(8).double()
        for j in range(10):
            if mask[b, j]:
                inner = attend.query(query[b]) + attend.key(x[b, j]) + attend.product(query[b] * x[b, j])
                total += torch.sigmoid(attend.out(torch.nn.functional.leaky_relu(inner))) * weight[b, j] * x[b, j]
        torch.testing.assert_close(found[b], total / mask[b].sum().double().sqrt(), rtol=0, atol=1e-12)


def written_out(attend, query, own, x, key, product, out):
    """DinAttention's logits without their bias, as autograd differentiates them."""
    inner = own.unsqueeze(1) + x @ key.T + (query.unsqueeze(1) * x) @ product.T
    return torch.nn.functional.leaky_relu(inner) @ out


def test_the_gradient_of_din_attention_is_that_of_its_formula(sequence):
    query, x, _, _ = sequence
    attend = DinAttention(8, 16).double()
    inputs = (query, attend.query(query), x, attend.key.weight, attend.product.weight, attend.out.weight[0])
    inputs = [each.detach().clone().requires_grad_() for each in inputs]
    slope = torch.randn(3, 10, dtype=torch.float64)
    found = torch.autograd.grad(_Logits.apply(*inputs), inputs, slope)
    expected = torch.autograd.grad(written_out(attend, *inputs), inputs, slope)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_second_backward_through_din_attention_is_refused(sequence):
    query, x, _, mask = sequence
    read = DinAttention(8, 16).double().read(query, x, None, mask).sum()
    read.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        read.backward()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_din_attention_in_mixed_precision_has_the_gradient_of_full_precision(sequence, kind):
    query, x, _, mask = sequence
    attend, gradients = DinAttention(8, 16), []
    for mixed in (False, True):
        attend.zero_grad()
        with torch.autocast("cpu", kind, enabled=mixed):
            read = attend.read(query.float(), x.float(), None, mask).sum()
        read.backward()  # outside, as Lightning does
        gradients.append(attend.key.weight.grad.clone())
    torch.testing.assert_close(*gradients, rtol=0.1, atol=0.05)
