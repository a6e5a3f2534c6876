from __future__ import annotations

import pytest
import torch

from mt.decoding.scoring import alignments, attention
from mt.decoding.sources import padded
from mt.model.directory import LoadedModel

SOURCES = ["der hund sieht einen ball", "frau", "die frau liest ein rotes buch am fluss"]


def test_weights_are_those_that_the_layer_attends_with(loaded: LoadedModel) -> None:
    """The values, mixed by the weights of each head, give what the layer itself gives; checked for one head."""
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = padded(tokenizer.encode_source(SOURCES), tokenizer.pad_id, "cpu")
    read = torch.full((len(SOURCES), 4), tokenizer.begin_id)
    weights = attention(model, ids, read)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    assert bool((weights[ids[:, None, :].expand_as(weights) == tokenizer.pad_id] == 0).all())

    layer = model.decoder[len(model.decoder) - 2]
    seen: list[tuple[torch.Tensor, ...]] = []
    hook = layer.cross.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    with torch.inference_mode():
        model.decode(read, model.encode(ids))
        hook.remove()
        hidden, projected, mask, _ = seen[0]
        # Values that tell the position in place of what stands there: each output is then a mean of positions.
        positions = torch.zeros_like(projected)
        positions[0] = projected[0]
        positions[1] = torch.arange(ids.size(1), dtype=torch.float32)[None, None, :, None]
        heads = layer.cross.query(hidden).view(3, 4, 2, -1).transpose(1, 2)
        mixed = torch.nn.functional.scaled_dot_product_attention(heads, positions[0], positions[1], attn_mask=mask)
    torch.testing.assert_close(mixed[..., 0].mean(1), weights @ torch.arange(ids.size(1), dtype=torch.float32))


@pytest.mark.parametrize("batch_tokens", [1, 1000])
def test_each_output_token_but_the_end_has_its_source_token(loaded: LoadedModel, batch_tokens: int) -> None:
    tokenizer = loaded.tokenizer
    sources = [*tokenizer.encode_source(SOURCES), [tokenizer.end_id]]
    targets = [*tokenizer.encode_target(["a dog sees", "woman", ""]), [5, tokenizer.end_id]]
    found = alignments(loaded, sources, targets, batch_tokens)
    for pairs, source, target in zip(found, sources, targets):
        assert [place for _, place in pairs] == (list(range(len(target) - 1)) if len(source) > 1 else [])
        assert all(0 <= place < len(source) - 1 for place, _ in pairs)
    assert found == alignments(loaded, sources, targets, 10)


def test_a_token_is_aligned_where_it_is_predicted(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = loaded.tokenizer
    source = tokenizer.encode_source(["der hund sieht einen ball"])
    weights = torch.zeros(1, 3, len(source[0]))
    weights[0, 0, 2] = weights[0, 1, 1] = 0.4
    weights[0, :, -1] = 0.6  # the end of the source is no word
    seen: list[list[list[int]]] = []

    def given(model: object, source_ids: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        seen.append(read.tolist())
        return weights

    monkeypatch.setattr("mt.decoding.scoring.attention", given)
    assert alignments(loaded, source, [[7, 8, tokenizer.end_id]], 100) == [[[2, 0], [1, 1]]]
    assert seen == [[[tokenizer.begin_id, 7, 8]]]
