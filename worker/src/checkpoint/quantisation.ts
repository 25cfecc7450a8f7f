import type { ConfigReader } from './config-reader.ts';

/** How a checkpoint's large matrices are stored beside plain bf16, f16 or f32. */
export type Quantisation = { method: 'none' } | { method: 'fp8'; block: [number, number] } | { method: 'mxfp4' };

/**
 * Reads `quantization_config`. FP8 means e4m3 with block scales, in f32 as DeepSeek publishes it or in bf16 as Qwen does; activations are never quantised here,
 * so only checkpoints that leave their scales to run time ("dynamic") mean the same thing.
 */
export function readQuantisation(config: ConfigReader): Quantisation {
  const quantization = config.nested('quantization_config');
  if (quantization === null) return { method: 'none' };
  const method = quantization.choice('quant_method', ['fp8', 'mxfp4']);
  if (method === 'mxfp4') return { method };
  // The same format under DeepSeek's name and, in MiniMax's checkpoints, under PyTorch's.
  quantization.choice('fmt', ['e4m3', 'float8_e4m3fn'], 'e4m3');
  quantization.choice('activation_scheme', ['dynamic'], 'dynamic');
  const [blockN, blockK] = quantization.numbers('weight_block_size', 2) as [number, number];
  for (const size of [blockN, blockK])
    if (!Number.isSafeInteger(size) || size < 1 || size > 65_536)
      throw quantization.refusal('weight_block_size', 'two block sizes from 1 to 65536');
  return { method, block: [blockN, blockK] };
}
