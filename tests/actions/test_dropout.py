import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stagegraph.actions.dropout import WithoutDropout

X = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "drop",
    [
        nn.Dropout(0.5),
        nn.Dropout1d(0.5),
        nn.AlphaDropout(0.5),
        nn.FeatureAlphaDropout(0.5),
        lambda x: F.dropout(x, p=0.5),
        lambda x: F.dropout(input=x, p=0.5),
        lambda x: torch.dropout(x, 0.5, train=True),
    ],
)
def test_everything_gets_through(drop):
    before = torch.get_rng_state()
    with WithoutDropout():
        assert torch.equal(drop(X), X)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(drop(X), X)


def test_attention_drops_nothing_either():
    expected = F.scaled_dot_product_attention(X, X, X)
    with WithoutDropout():
        assert torch.equal(F.scaled_dot_product_attention(X, X, X, dropout_p=0.9), expected)
        assert torch.equal(F.scaled_dot_product_attention(X, X, X, None, 0.9), expected)
    layer = nn.MultiheadAttention(6, 2, dropout=0.9, batch_first=True).train()
    with WithoutDropout():
        one, two = (layer(X, X, X, need_weights=False)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, layer(X, X, X, need_weights=False)[0])
