import { quoted } from '../checkpoint/bad-checkpoint.ts';
import type { Checkpoint } from '../checkpoint/checkpoint.ts';
import { deepSeekV2 } from './families/deepseek_v2.ts';
import { deepSeekV3 } from './families/deepseek_v3.ts';
import { dots1 } from './families/dots1.ts';
import { ernie45Moe } from './families/ernie4_5_moe.ts';
import { glm4Moe } from './families/glm4_moe.ts';
import { gptOss } from './families/gpt_oss.ts';
import { graniteMoe } from './families/granitemoe.ts';
import { hunyuanV1Moe } from './families/hunyuan_v1_moe.ts';
import { minimaxM2 } from './families/minimax_m2.ts';
import { mixtral } from './families/mixtral.ts';
import { olmoe } from './families/olmoe.ts';
import { phiMoe } from './families/phimoe.ts';
import { qwen2Moe } from './families/qwen2_moe.ts';
import { qwen3Moe } from './families/qwen3_moe.ts';
import { switchyardSmileMoe } from './families/switchyard_smile_moe.ts';
import type { Family } from './family.ts';
import type { ModelGraph } from './graph.ts';

/** Every architecture that can be served, by the `model_type` of its config.json. A new one is a file in families/ and a line here. */
export const families: Readonly<Record<string, Family>> = {
  mixtral,
  olmoe,
  qwen2_moe: qwen2Moe,
  qwen3_moe: qwen3Moe,
  granitemoe: graniteMoe,
  granitemoeshared: graniteMoe,
  phimoe: phiMoe,
  deepseek_v2: deepSeekV2,
  deepseek_v3: deepSeekV3,
  gpt_oss: gptOss,
  dots1,
  glm4_moe: glm4Moe,
  minimax_m2: minimaxM2,
  ernie4_5_moe: ernie45Moe,
  hunyuan_v1_moe: hunyuanV1Moe,
  switchyard_smile_moe: switchyardSmileMoe,
};

/** The graph of a checkpoint. Throws `bad_checkpoint` where its type is unknown, its config or tensors do not fit, or it holds tensors that nothing reads. */
export function describeModel(checkpoint: Checkpoint): ModelGraph {
  const { config, tensors, quantisation } = checkpoint;
  const modelType = config.choice('model_type', Object.keys(families));
  if (quantisation.method === 'mxfp4' && modelType !== 'gpt_oss')
    throw config
      .nested('quantization_config')!
      .refusal('quant_method', `fp8: mxfp4 is implemented for gpt_oss, not for ${quoted(modelType)}`);
  if (quantisation.method === 'fp8' && modelType === 'gpt_oss')
    throw config.nested('quantization_config')!.refusal('quant_method', 'mxfp4: fp8 is not implemented for gpt_oss');
  const graph = families[modelType]!(checkpoint);
  const said = config.firstOf(['num_nextn_predict_layers', 'num_mtp_modules']);
  const predicting = config.index(said, predictingLayers[modelType] ?? 0, 64);
  tensors.requireAllRead((name) => isIgnored(name, graph.layers, predicting));
  return graph;
}

/** Layers of multi-token prediction behind the last one, where config.json does not say how many. */
const predictingLayers: Readonly<Record<string, number>> = { deepseek_v3: 1, glm4_moe: 1 };

/** Published checkpoints carry a few tensors that inference has no use for. */
function isIgnored(name: string, layers: number, predicting: number): boolean {
  // Multi-token prediction: layers that follow the last one, or ERNIE's blocks beside them. Any more would be a model whose config says less than it is.
  const layer = Number(/^model\.layers\.(\d+)\./.exec(name)?.[1] ?? -1);
  if ((layer >= layers && layer < layers + predicting) || /^model\.mtp_\w+\./.test(name)) return true;
  // Old exports keep a rope table.
  return name.endsWith('.rotary_emb.inv_freq');
}
