"""Hugging Face models as they are: GPT-2's Conv1D with a tied head, BERT, and ALBERT's shared layer."""

import pytest
import torch

import mho

transformers = pytest.importorskip("transformers", exc_type=ImportError)

SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


def gpt2():
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def bert():
    return transformers.BertModel(transformers.BertConfig(num_hidden_layers=2, **SMALL))


def albert():
    return transformers.AlbertModel(transformers.AlbertConfig(num_hidden_layers=3, embedding_size=16, **SMALL))


@pytest.mark.parametrize("build, arrays", [(gpt2, 9), (bert, 13), (albert, 8)])
def test_a_hugging_face_model_converts_completely(build, arrays):
    torch.manual_seed(0)
    model, tokens = build().eval(), torch.randint(0, 50, (2, 7))
    net = mho.to_analog(model, "ideal.exact", strict=True)
    assert len(mho.conversion_report(net).analog) == arrays
    assert torch.allclose(net(input_ids=tokens)[0], model(input_ids=tokens)[0], atol=1e-5)
    back = mho.to_digital(net)
    assert type(back) is type(model) and torch.equal(back(input_ids=tokens)[0], model(input_ids=tokens)[0])
