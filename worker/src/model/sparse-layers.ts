import type { ConfigReader } from '../checkpoint/config-reader.ts';

/** Qwen's rule for which layers have experts: every `decoder_sparse_step`-th, except those of `mlp_only_layers`. */
export function isSparseLayer(config: ConfigReader): (layer: number) => boolean {
  const step = config.count('decoder_sparse_step', 1);
  const dense = new Set(config.indexes('mlp_only_layers', []));
  return (layer) => !dense.has(layer) && (layer + 1) % step === 0;
}
