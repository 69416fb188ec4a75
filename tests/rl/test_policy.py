from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Starcoder2Config,
)

from kernels.logprob import token_logprobs_reference
from kernels.varlen import op
from rl.learner import forward
from rl.learner.batch import cumulative
from rl.learner.config import LoraConfig, ModelConfig
from rl.learner.forward import causal_lm, packed_logprobs
from rl.learner.policy import PolicyError, check_tokenizer, create_model, load_model, prepare
from rollout.models.pretrained import ModelPathError
from rollout.models.tokenizer import build_tokenizer
from tests.learner_kit import TINY, VOCABULARY, save_tiny_model, tiny_llama

SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
LENGTHS = [4, 9, 2, 17, 9]
CPU = ModelConfig(base=TINY)


def stream(seed=0):
    """Packed tokens, their boundaries, and the indices of all tokens that have a predecessor."""
    tokens = torch.randint(0, VOCABULARY, (sum(LENGTHS),), generator=torch.Generator().manual_seed(seed))
    cu_seqlens = cumulative(LENGTHS)
    follows = torch.ones(len(tokens), dtype=torch.bool)
    follows[cu_seqlens[:-1].long()] = False
    return tokens, cu_seqlens, follows.nonzero().flatten()


def separate_logprobs(model, tokens, temperature=1.0):
    """One sequence after the other through the model's own forward pass and full logits."""
    parts, entropies = [], []
    for sequence in tokens.split(LENGTHS):
        logits = model(sequence[None]).logits[0, :-1] / temperature
        logprobs = logits.log_softmax(-1)
        parts.append(logprobs.gather(1, sequence[1:, None]).squeeze(1))
        entropies.append(-(logprobs.exp() * logprobs).sum(-1))
    return torch.cat(parts), torch.cat(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_separate_in_values_and_gradients(checkpointing, temperature):
    plain = tiny_llama()
    packed = prepare(copy.deepcopy(plain), ModelConfig(base=TINY, gradient_checkpointing=checkpointing))
    tokens, cu_seqlens, targets = stream()
    upstream = torch.linspace(-1, 1, len(targets))
    ours, entropy = packed_logprobs(packed, tokens, cu_seqlens, targets, temperature=temperature)
    truth, true_entropy = separate_logprobs(plain, tokens, temperature)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)  # float32 sums in another order
    torch.testing.assert_close(entropy, true_entropy, rtol=0, atol=1e-5)
    (ours * upstream).sum().backward()
    (truth * upstream).sum().backward()
    for (name, a), (_, b) in zip(packed.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4, msg=name)


def test_only_the_tokens_asked_for_are_scored():
    model = prepare(tiny_llama(), CPU)
    tokens, cu_seqlens, targets = stream()
    everything, _ = packed_logprobs(model, tokens, cu_seqlens, targets)
    some, _ = packed_logprobs(model, tokens, cu_seqlens, targets[[3, 20, 5]])
    torch.testing.assert_close(some, everything[[3, 20, 5]], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
        lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=64)),
        lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=5)),
        lambda: tiny_llama(attention_bias=True, tie_word_embeddings=True),
    ],
    ids=["qwen2", "mistral", "mistral-beyond-window", "llama-bias"],
)
def test_other_architectures(model):
    torch.manual_seed(1)
    plain = model()
    tokens, cu_seqlens, targets = stream(2)
    with torch.no_grad():
        truth, _ = separate_logprobs(plain, tokens)
        ours, _ = packed_logprobs(prepare(plain, CPU), tokens, cu_seqlens, targets)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)


def test_a_head_with_bias_is_supported():
    model = tiny_llama()
    model.lm_head = torch.nn.Linear(32, VOCABULARY, bias=True)
    tokens, cu_seqlens, targets = stream()
    with torch.no_grad():
        hidden = torch.cat([model.base_model(s[None]).last_hidden_state[0, :-1] for s in tokens.split(LENGTHS)])
        truth, _ = token_logprobs_reference(hidden, model.lm_head.weight, tokens[targets], model.lm_head.bias)
        ours, _ = packed_logprobs(prepare(model, CPU), tokens, cu_seqlens, targets)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)


SHARP = {**SMALL, "initializer_range": 0.3}
CAPPED = Gemma2Config(**SHARP, attn_logit_softcapping=0.5, final_logit_softcapping=0.7, sliding_window=6)


@pytest.mark.parametrize(
    "config",
    [CAPPED, GraniteConfig(**SHARP, logits_scaling=8.0, attention_multiplier=0.7, embedding_multiplier=3.0),
     CohereConfig(**SHARP, logit_scale=0.25)],
    ids=lambda config: config.model_type,
)  # fmt: skip
def test_soft_capping_and_scales_of_scores_and_logits(config):
    torch.manual_seed(1)
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
    plain.set_attn_implementation("eager")  # transformers' sdpa leaves soft-capping out
    tokens, cu_seqlens, targets = stream(2)
    truth, _ = separate_logprobs(plain, tokens, 0.7)
    upstream = torch.linspace(-1, 1, len(targets))
    (truth * upstream).sum().backward()
    grads = {name: p.grad.clone() for name, p in plain.named_parameters()}
    plain.zero_grad()
    ours, _ = packed_logprobs(prepare(plain, CPU), tokens, cu_seqlens, targets, temperature=0.7)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-5)
    (ours * upstream).sum().backward()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-4, atol=1e-4, msg=name)


class Doubled(type(tiny_llama())):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = 2 * out.logits
        return out


class Noisy(type(tiny_llama())):
    def __init__(self, config):
        super().__init__(config)
        self.model.norm.register_forward_hook(
            lambda module, _, out: out + torch.rand_like(out) if module.training else out
        )


def test_models_that_we_would_compute_differently_are_refused():
    torch.manual_seed(0)
    with pytest.raises(PolicyError, match="Doubled cannot be trained: packed log-probs differ from the model's own by"):
        prepare(Doubled(tiny_llama().config), CPU)
    with pytest.raises(PolicyError, match="two forward passes in training mode differ"):
        prepare(Noisy(tiny_llama().config), CPU)


@pytest.mark.parametrize("left_out", ["window", "softcap"])
def test_the_probe_notices_a_window_or_cap_left_out(monkeypatch, left_out):
    """It goes beyond the window, which its short sequences do not."""
    torch.manual_seed(1)
    windowed = MistralForCausalLM(MistralConfig(**SHARP, sliding_window=40))
    model = windowed if left_out == "window" else Gemma2ForCausalLM(copy.deepcopy(CAPPED))
    original = op.packed_attention
    keep = (lambda window, cap: (None, cap)) if left_out == "window" else (lambda window, cap: (window, None))
    monkeypatch.setattr(op, "packed_attention", lambda *args: original(*args[:5], *keep(*args[5:7]), *args[7:]))
    with pytest.raises(PolicyError, match="packed log-probs differ"):
        prepare(model, CPU, longest=64)
    if left_out == "window":
        prepare(MistralForCausalLM(MistralConfig(**SHARP, sliding_window=40)), CPU, longest=40)


def test_block_attention_is_refused_where_a_window_or_a_cap_would_be_lost():
    block = ModelConfig(base=TINY, attention={"moba": {"block_size": 4, "top_k": 2}})
    narrow = MistralConfig(**SMALL, sliding_window=16)
    with pytest.raises(PolicyError, match="sliding window of 16 tokens, which block attention has not"):
        prepare(MistralForCausalLM(narrow), block, longest=17)
    prepare(MistralForCausalLM(narrow), block, longest=16)
    with pytest.raises(PolicyError, match="soft-capped"):
        prepare(Gemma2ForCausalLM(Gemma2Config(**SMALL, sliding_window=64)), block, longest=32)


@pytest.mark.parametrize(
    "config",
    [
        tiny_llama(attention_dropout=0.5).config,
        OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, dropout=0.3, attention_dropout=0.3, layerdrop=0.3),
        Starcoder2Config(**SMALL, residual_dropout=0.3, embedding_dropout=0.3, attention_dropout=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_dropout_is_off_so_that_the_same_function_is_computed_twice(config):
    """Also where it is no module, but an attribute of a layer."""
    model = prepare(AutoModelForCausalLM.from_config(config, dtype=torch.float32), CPU)
    tokens, cu_seqlens, targets = stream()
    first, _ = packed_logprobs(model, tokens, cu_seqlens, targets)
    with torch.no_grad():
        second, _ = packed_logprobs(model, tokens, cu_seqlens, targets)
    assert model.training
    assert torch.equal(first, second)


def test_bfloat16_autocast_keeps_float32_weights_and_stays_close():
    model = prepare(tiny_llama(), CPU)
    tokens, cu_seqlens, targets = stream()
    exact, _ = packed_logprobs(model, tokens, cu_seqlens, targets)
    half, _ = packed_logprobs(model, tokens, cu_seqlens, targets, compute_dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05)
    half.sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_scratch_models_depend_on_the_seed_alone_and_tie_their_embeddings():
    tokenizer = build_tokenizer(["a", "b"], 256)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, two, other = (create_model(TINY, tokenizer, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert (one.config.eos_token_id, one.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert one.config.vocab_size == len(tokenizer)


def test_tokenizers_without_end_or_padding(caplog):
    tokenizer = build_tokenizer(["a"], 16)
    tokenizer.pad_token = None
    check_tokenizer(tokenizer, "some/model")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert "some/model has no pad_token" in caplog.text
    tokenizer.eos_token = None
    with pytest.raises(PolicyError, match="some/model has no eos_token"):
        check_tokenizer(tokenizer, "some/model")


def test_missing_and_broken_model_directories(tmp_path):
    with pytest.raises(ModelPathError, match="no such model directory"):
        load_model(tmp_path / "nothing")
    (tmp_path / "config.json").write_text('{"model_type": "llama"')
    with pytest.raises(PolicyError, match="cannot be loaded as a causal LM") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_are_loaded_in_float32(tmp_path):
    tiny_llama().bfloat16().save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}


def test_lora_trains_adapters_only_and_starts_as_the_base_model(tmp_path):
    folder = save_tiny_model(tmp_path)
    base = prepare(load_model(folder), CPU)
    lora = prepare(
        load_model(folder), ModelConfig(base=TINY, lora=LoraConfig(rank=2), gradient_checkpointing=True), seed=3
    )
    assert all("lora_" in name for name, p in lora.named_parameters() if p.requires_grad)
    assert causal_lm(lora) is not lora
    tokens, cu_seqlens, targets = stream()
    ours, _ = packed_logprobs(lora, tokens, cu_seqlens, targets)
    truth, _ = packed_logprobs(base, tokens, cu_seqlens, targets)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-6)
    ours.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in lora.parameters())
    with pytest.raises(PolicyError, match="target_modules"):
        prepare(load_model(folder), ModelConfig(base=TINY, lora=LoraConfig(target_modules=("nothing",))))


def test_lora_on_the_head_is_trained_or_refused(monkeypatch):
    on_head = ModelConfig(base=TINY, lora=LoraConfig(rank=2, target_modules=("q_proj", "lm_head")))
    policy = prepare(tiny_llama(), on_head)
    tokens, cu_seqlens, targets = stream()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lm_head" in name and "lora_B" in name:
                parameter.normal_()
    ours, _ = packed_logprobs(policy, tokens, cu_seqlens, targets)
    ours.sum().backward()
    causal_lm(policy).set_attn_implementation("sdpa")
    truth, _ = separate_logprobs(policy, tokens)
    torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-4)
    assert all(p.grad.any() for name, p in policy.named_parameters() if "lm_head" in name and p.requires_grad)

    for target in ("lm_head", "embed_tokens"):
        with pytest.raises(PolicyError, match="ties its LM head to the embeddings"):
            prepare(
                tiny_llama(tie_word_embeddings=True),
                ModelConfig(base=TINY, lora=LoraConfig(target_modules=(target,))),
            )
    monkeypatch.setattr(forward, "head_weight", lambda head: head.weight)
    with pytest.raises(PolicyError, match=r"the gradient of .*lm_head\.lora_B.* has norm 0 in k15"):
        prepare(tiny_llama(), on_head)


def test_what_the_forward_pass_never_reaches_is_frozen():
    model = tiny_llama()
    model.model.tower = torch.nn.Linear(3, 3)
    policy = prepare(model, CPU)
    assert [name for name, p in policy.named_parameters() if not p.requires_grad] == [
        "model.tower.weight", "model.tower.bias"
    ]  # fmt: skip
