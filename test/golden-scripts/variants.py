"""Tiny random checkpoints of every family with other sizes and options than the golden ones, and what transformers computes for them.

    python variants.py DIR [NAME ...]
    for folder in DIR/*; do switchyard model verify $folder --workers-per-node 3; done

Needs torch and transformers 5 (tried with 5.19). Sizes are no multiples of a vector's width on purpose. The folders have the form that `switchyard model
verify` reads (../golden/README.md), without the chosen experts: logits and continuations tell.
"""

import sys

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 211
PROMPTS = [5, 23, 61]  # Around every window and original context below.
GENERATED = 16

base = dict(
    vocab_size=VOCAB, hidden_size=72, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
    max_position_embeddings=256, bos_token_id=None, eos_token_id=None, pad_token_id=None,
)
all_heads = {**base, "num_key_value_heads": 6}
latent = dict(all_heads, intermediate_size=90, moe_intermediate_size=26, kv_lora_rank=18, qk_nope_head_dim=14, qk_rope_head_dim=6)
blocks = dict(intermediate_size=90, moe_intermediate_size=26, n_routed_experts=10, num_experts_per_tok=3, first_k_dense_replace=1)


def rope(kind="default", theta=10_000.0, **rest):
    return {"rope_type": kind, "rope_theta": theta, **rest}


# name: (model_type, settings)
variants = {
    "mixtral-linear-rope": ("mixtral", dict(
        base, intermediate_size=50, num_local_experts=7, num_experts_per_tok=3, head_dim=20, rope_parameters=rope("linear", 5000.0, factor=3.0))),
    "mixtral-window-tied": ("mixtral", dict(
        base, num_key_value_heads=1, intermediate_size=33, num_local_experts=5, num_experts_per_tok=1, sliding_window=9, tie_word_embeddings=True)),
    "olmoe-clipped": ("olmoe", dict(all_heads, intermediate_size=40, num_experts=9, num_experts_per_tok=4, norm_topk_prob=True, clip_qkv=1.5)),
    "qwen2-every-second-layer": ("qwen2_moe", dict(
        base, intermediate_size=90, moe_intermediate_size=26, shared_expert_intermediate_size=58, num_experts=6, num_experts_per_tok=2,
        norm_topk_prob=True, decoder_sparse_step=2, qkv_bias=False)),
    "qwen2-windows": ("qwen2_moe", dict(
        base, num_hidden_layers=4, intermediate_size=90, moe_intermediate_size=26, shared_expert_intermediate_size=58, num_experts=6,
        num_experts_per_tok=2, mlp_only_layers=[1], use_sliding_window=True, sliding_window=11, max_window_layers=2)),
    "qwen3-yarn-biased": ("qwen3_moe", dict(
        base, head_dim=28, intermediate_size=90, moe_intermediate_size=34, num_experts=10, num_experts_per_tok=5, norm_topk_prob=False,
        attention_bias=True, mlp_only_layers=[0], rope_parameters=rope("yarn", 20_000.0, factor=4.0, original_max_position_embeddings=64))),
    "granite-scaled-tied": ("granitemoe", dict(
        base, intermediate_size=44, num_local_experts=6, num_experts_per_tok=3, embedding_multiplier=3.0, logits_scaling=2.5,
        residual_multiplier=0.3, attention_multiplier=0.2, tie_word_embeddings=True, attention_bias=True)),
    "granite-shared": ("granitemoeshared", dict(
        base, intermediate_size=44, num_local_experts=6, num_experts_per_tok=3, shared_intermediate_size=38, embedding_multiplier=2.0,
        logits_scaling=1.5)),
    "phimoe-biased-window": ("phimoe", dict(
        base, intermediate_size=44, num_local_experts=6, num_experts_per_tok=2, router_jitter_noise=0.02, attention_bias=True,
        lm_head_bias=True, sliding_window=13)),
    "deepseek-v2-greedy": ("deepseek_v2", dict(
        latent, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=1, q_lora_rank=None, v_head_dim=22,
        topk_method="greedy", routed_scaling_factor=1.7)),
    "deepseek-v2-groups-biased": ("deepseek_v2", dict(
        latent, n_routed_experts=12, num_experts_per_tok=3, n_shared_experts=3, first_k_dense_replace=0, q_lora_rank=30, v_head_dim=10,
        topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=16.0, attention_bias=True)),
    "deepseek-v3-halves": ("deepseek_v3", dict(
        latent, n_routed_experts=12, num_experts_per_tok=4, n_shared_experts=2, first_k_dense_replace=2, q_lora_rank=None, v_head_dim=10,
        n_group=3, topk_group=2, norm_topk_prob=False, rope_interleave=False)),
    "deepseek-v3-yarn-biased": ("deepseek_v3", dict(
        latent, n_routed_experts=16, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=0, q_lora_rank=24, v_head_dim=16,
        n_group=8, topk_group=1, attention_bias=True, rope_parameters=rope(
            "yarn", factor=8.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=1.0, beta_fast=16, beta_slow=2))),
    "gpt-oss-window": ("gpt_oss", dict(
        base, head_dim=20, intermediate_size=44, num_local_experts=6, num_experts_per_tok=2, sliding_window=7, swiglu_limit=3.0,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"])),
    "gpt-oss-plain-rope": ("gpt_oss", dict(
        base, head_dim=20, intermediate_size=46, num_local_experts=6, num_experts_per_tok=4, attention_bias=False,
        rope_parameters=rope(theta=3000.0))),
    "dots1-windows": ("dots1", dict(
        base, **blocks, head_dim=20, n_shared_experts=2, n_group=2, topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.3,
        attention_bias=True, sliding_window=9, max_window_layers=1)),
    "glm4-partial-rope": ("glm4_moe", dict(
        base, **blocks, head_dim=20, n_shared_experts=1, n_group=1, topk_group=1, use_qk_norm=True, attention_bias=True,
        rope_parameters=rope(partial_rotary_factor=0.6))),
    "minimax-partial-rope": ("minimax_m2", dict(
        base, head_dim=20, intermediate_size=44, num_local_experts=6, num_experts_per_tok=3,
        rope_parameters=rope(theta=70_000.0, partial_rotary_factor=0.4))),
    "ernie-tied": ("ernie4_5_moe", dict(
        base, head_dim=20, intermediate_size=90, moe_intermediate_size=26, moe_num_experts=6, moe_k=2, moe_num_shared_experts=1,
        moe_layer_start_index=1, moe_layer_end_index=2, moe_layer_interval=1)),
    "hunyuan-biased": ("hunyuan_v1_moe", dict(
        base, head_dim=20, intermediate_size=44, num_experts=6, moe_topk=2, attention_bias=True)),
}


def random_weights(model):
    """Large enough that routers are decided and every part shows in the logits."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            spread = 1.0 if "gate." in name or "router" in name else 0.8
            parameter.normal_(0, spread / parameter.shape[-1] ** 0.5)
        elif "norm" in name:
            parameter.uniform_(0.7, 1.3)
        else:
            parameter.normal_(0, 0.1)
    for name, buffer in model.named_buffers():
        if "e_score_correction_bias" in name:
            buffer.normal_(0, 0.1)


def expected(model):
    tensors = {}
    for case, length in enumerate(PROMPTS):
        tokens = torch.randint(0, VOCAB, (1, length))
        grown = tokens
        for _ in range(GENERATED):  # No cache: every step computes all of it anew.
            best = model(grown, use_cache=False).logits[0, -1].argmax()
            grown = torch.cat([grown, best.view(1, 1)], 1)
        tensors[f"case{case}.tokens"] = tokens[0].to(torch.int32)
        tensors[f"case{case}.logits"] = model(tokens, use_cache=False).logits[0].float().contiguous()
        tensors[f"case{case}.generated"] = grown[0, length:].to(torch.int32)
    return tensors


@torch.no_grad()
def make(folder, name):
    model_type, settings = variants[name]
    torch.manual_seed(sum(map(ord, name)))
    config = AutoConfig.for_model(model_type, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", experts_implementation="eager").float().eval()
    random_weights(model)
    model.save_pretrained(f"{folder}/{name}")
    save_file(expected(model), f"{folder}/{name}/expected.safetensors")
    print(name, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for wanted in sys.argv[2:] or variants:
        make(sys.argv[1], wanted)
