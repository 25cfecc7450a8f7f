import type { TensorView } from '../checkpoint/tensor-view.ts';
import type { Tensors } from '../checkpoint/tensors.ts';
import type { DecoderConfig } from './decoder-config.ts';
import type { Constant, ModelGraph } from './graph.ts';
import { columns, type GraphBuilder } from './graph-builder.ts';

/** Token embedding into the residual stream; returns its view, which a tied head uses again. */
export function embedTokens(g: GraphBuilder, tensors: Tensors, { vocab, hidden }: DecoderConfig, scale = 1): TensorView {
  const embedding = tensors.matrix('model.embed_tokens.weight', vocab, hidden);
  g.embed(embedding, scale);
  return embedding;
}

/** RMSNorm of the residual stream into `normed`, with the weight `at.weight`. */
export function rmsNorm(g: GraphBuilder, tensors: Tensors, at: string, { hidden, eps }: DecoderConfig): Constant {
  const weights = [tensors.vector(`${at}.weight`, hidden)];
  return g.norm({ name: at, kind: 'rms', eps, x: columns(g.residual), out: columns(g.normed), width: hidden, weights })!;
}

/** The embedding where the two are tied, unless the checkpoint has a head of its own all the same: it may have been trained on since. */
export function headWeight(tensors: Tensors, { hidden, vocab, tiedEmbeddings }: DecoderConfig, embedding: TensorView): TensorView {
  return tiedEmbeddings && !tensors.has('lm_head.weight') ? embedding : tensors.matrix('lm_head.weight', vocab, hidden);
}

/** Final RMSNorm and the head. */
export function vocabularyHead(g: GraphBuilder, tensors: Tensors, sizes: DecoderConfig, embedding: TensorView, scale = 1): ModelGraph {
  const { hidden, eps } = sizes;
  return g.head({
    norm: { kind: 'rms', eps, weights: [tensors.vector('model.norm.weight', hidden)] },
    weight: headWeight(tensors, sizes, embedding),
    bias: null,
    scale,
  });
}
