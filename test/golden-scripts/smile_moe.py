"""Makes the golden checkpoints of the model type `switchyard_smile_moe`: test/golden/smile_moe and test/golden/smile_moe_pairs.

    python3 test/golden-scripts/smile_moe.py            (numpy 2.4.6; the files are the same for the same numpy)

An implementation of its own: numpy in double precision on the stored bf16 values, whole sequences, no cache. Router as in arXiv:2212.05191:
p = softmax(inter x), q = softmax(intra x), y = sum over the kept nodes i and places j of p_i q_j E_{i,j}(x).
Seeds are tried in order until no routing decision and no greedy choice is close to a tie, so that f32 arithmetic must agree.
"""

import json
import struct
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
GENERATED = 16

SHARED = {
    "architectures": ["SwitchyardSmileMoeForCausalLM"],
    "model_type": "switchyard_smile_moe",
    "hidden_act": "silu",
    "hidden_size": 32,
    "head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 96,
}
MODELS = {
    # The paper's own gate: one node, one expert; a dense layer in the middle.
    "smile_moe": SHARED
    | {"num_experts": 12, "num_nodes": 4, "num_nodes_per_tok": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "mlp_only_layers": [1]},
    # Two of four nodes, two of three experts in each, normalised and scaled.
    "smile_moe_pairs": SHARED
    | {"num_experts": 12, "num_nodes": 4, "num_nodes_per_tok": 2, "num_experts_per_tok": 4, "moe_intermediate_size": 16}
    | {"mlp_only_layers": [], "norm_topk_prob": True, "routed_scaling_factor": 1.5},
}


class TooClose(Exception):
    """A decision that rounding could change."""


def to_bf16(x):
    """The nearest bf16 values, ties to even, as their 16 bits."""
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def make_weights(c, seed):
    rng = np.random.default_rng(seed)
    d, heads, kv, width = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    experts, nodes = c["num_experts"], c["num_nodes"]
    weights = {}

    def put(name, *shape, size=None, around=0.0):
        size = shape[-1] ** -0.5 if size is None else size
        weights[name] = to_bf16(around + size * rng.standard_normal(shape))

    def mlp(at, inter):
        put(f"{at}.gate_proj.weight", inter, d)
        put(f"{at}.up_proj.weight", inter, d)
        put(f"{at}.down_proj.weight", d, inter)

    put("model.embed_tokens.weight", c["vocab_size"], d, size=1.0)
    for l in range(c["num_hidden_layers"]):
        at = f"model.layers.{l}"
        put(f"{at}.input_layernorm.weight", d, size=0.1, around=1.0)
        put(f"{at}.post_attention_layernorm.weight", d, size=0.1, around=1.0)
        put(f"{at}.self_attn.q_proj.weight", heads * width, d)
        put(f"{at}.self_attn.k_proj.weight", kv * width, d)
        put(f"{at}.self_attn.v_proj.weight", kv * width, d)
        put(f"{at}.self_attn.o_proj.weight", d, heads * width)
        put(f"{at}.self_attn.q_norm.weight", width, size=0.1, around=1.0)
        put(f"{at}.self_attn.k_norm.weight", width, size=0.1, around=1.0)
        if l in c["mlp_only_layers"]:
            mlp(f"{at}.mlp", c["intermediate_size"])
            continue
        put(f"{at}.mlp.inter.weight", nodes, d, size=0.3)
        put(f"{at}.mlp.intra.weight", experts // nodes, d, size=0.3)
        for e in range(experts):
            mlp(f"{at}.mlp.experts.{e}", c["moe_intermediate_size"])
    put("model.norm.weight", d, size=0.1, around=1.0)
    put("lm_head.weight", c["vocab_size"], d)
    return weights


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(z):
    return z / (1 + np.exp(-z))


def rotate(x, theta):
    """x: [T, heads, width]; the first half turns with the second."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[0])[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(c, w, at, x):
    steps, width, theta = len(x), c["head_dim"], c["rope_theta"]
    q, k, v = (np.reshape(x @ w[f"{at}.{n}_proj.weight"].T, (steps, -1, width)) for n in "qkv")
    q = rotate(rms(q, w[f"{at}.q_norm.weight"], c["rms_norm_eps"]), theta)
    k = rotate(rms(k, w[f"{at}.k_norm.weight"], c["rms_norm_eps"]), theta)
    group = q.shape[1] // k.shape[1]
    future = np.triu(np.ones((steps, steps), bool), 1)
    heads = []
    for h in range(q.shape[1]):
        score = q[:, h] @ k[:, h // group].T * width**-0.5
        heads.append(softmax(np.where(future, -np.inf, score)) @ v[:, h // group])
    return np.concatenate(heads, -1) @ w[f"{at}.o_proj.weight"].T


def mlp(w, at, x):
    return (silu(x @ w[f"{at}.gate_proj.weight"].T) * (x @ w[f"{at}.up_proj.weight"].T)) @ w[f"{at}.down_proj.weight"].T


def keep(p, n):
    """Indices of the n largest of each row."""
    order = np.argsort(-p, -1, kind="stable")
    ranked = np.take_along_axis(p, order, -1)
    if n < p.shape[-1] and (ranked[:, n - 1] - ranked[:, n]).min() < 1e-3:
        raise TooClose
    return order[:, :n]


def mixture(c, w, at, x):
    nodes, kept = c["num_nodes"], c["num_nodes_per_tok"]
    places = c["num_experts"] // nodes
    p, q = softmax(x @ w[f"{at}.inter.weight"].T), softmax(x @ w[f"{at}.intra.weight"].T)
    node, place = keep(p, kept), keep(q, c["num_experts_per_tok"] // kept)
    out, chosen = np.zeros_like(x), []
    for t in range(len(x)):
        pairs = [(i * places + j, p[t, i] * q[t, j]) for i in node[t] for j in place[t]]
        total = sum(weight for _, weight in pairs) if c.get("norm_topk_prob", False) else 1.0
        for e, weight in pairs:
            out[t] += c.get("routed_scaling_factor", 1.0) * weight / total * mlp(w, f"{at}.experts.{e}", x[t])
        chosen.append(sorted(e for e, _ in pairs))
    return out, chosen


def forward(c, w, tokens):
    x, chosen, eps = w["model.embed_tokens.weight"][tokens], [], c["rms_norm_eps"]
    for l in range(c["num_hidden_layers"]):
        at = f"model.layers.{l}"
        x = x + attention(c, w, f"{at}.self_attn", rms(x, w[f"{at}.input_layernorm.weight"], eps))
        normed = rms(x, w[f"{at}.post_attention_layernorm.weight"], eps)
        if l in c["mlp_only_layers"]:
            x = x + mlp(w, f"{at}.mlp", normed)
            continue
        added, experts = mixture(c, w, f"{at}.mlp", normed)
        x, chosen = x + added, [*chosen, experts]
    return rms(x, w["model.norm.weight"], eps) @ w["lm_head.weight"].T, np.array(chosen, np.int32)


def reference(c, w, tokens):
    logits, experts = forward(c, w, tokens)
    text, generated = list(tokens), []
    for _ in range(GENERATED):
        last = forward(c, w, np.array(text))[0][-1]
        second, best = np.sort(last)[-2:]
        if best - second < 5e-3 * last.std():
            raise TooClose
        generated.append(int(last.argmax()))
        text.append(generated[-1])
    return logits.astype(np.float32), experts, np.array(generated, np.int32)


def save(file, tensors):
    header, offset, blobs = {}, 0, []
    for name, (dtype, values) in tensors.items():
        blob = np.ascontiguousarray(values).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def make(folder, config):
    for seed in range(1000):
        stored = make_weights(config, seed)
        weights = {name: from_bf16(bits) for name, bits in stored.items()}
        rng = np.random.default_rng([seed, 1])
        expected = {}
        try:
            for case, length in enumerate([7, 41]):
                tokens = rng.integers(3, config["vocab_size"], length).astype(np.int32)
                logits, experts, generated = reference(config, weights, tokens)
                expected |= {
                    f"case{case}.tokens": ("I32", tokens),
                    f"case{case}.logits": ("F32", logits),
                    f"case{case}.generated": ("I32", generated),
                    f"case{case}.experts": ("I32", experts),
                }
        except TooClose:
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save(folder / "model.safetensors", {name: ("BF16", bits) for name, bits in stored.items()})
        save(folder / "expected.safetensors", expected)
        return seed
    raise SystemExit(f"{folder}: no seed gives clear decisions")


for name, config in MODELS.items():
    print(name, "seed", make(GOLDEN / name, config))
