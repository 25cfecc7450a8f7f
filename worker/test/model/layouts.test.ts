import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, expect, test } from 'vitest';
import {
  above,
  type FileTensor,
  goldenDir,
  readTensors,
  ScratchFolder,
  stacked,
  widened,
  writeTensors,
} from '../checkpoint/checkpoint-files.ts';
import { expectSameBits, logitsOfFolder, someTokens, tinyOptions } from './loading.ts';

// One model has many spellings on disk. Where the values are the same, so are the bits.

const scratch = new ScratchFolder();
afterAll(() => scratch.remove());
const tokens = someTokens(70, 320);
const golden = (folder: string) => path.join(goldenDir, folder);

/** A copy of a golden folder in one file, its tensors changed by `change`. */
function rewritten(
  folder: string,
  change: (tensors: Map<string, FileTensor>) => Map<string, FileTensor>,
  settings: Record<string, unknown> = {},
): string {
  const dir = scratch.copyOf(folder, settings);
  writeTensors(path.join(dir, 'model.safetensors'), change(readTensors(dir)));
  return dir;
}

async function expectSameLogits(folder: string, dir: string): Promise<void> {
  expectSameBits(await logitsOfFolder(tinyOptions(dir), tokens), await logitsOfFolder(tinyOptions(golden(folder)), tokens));
}

/** Per-expert matrices as transformers 5 saves them: gate above up, all experts in one tensor. */
function fuseExperts(
  tensors: Map<string, FileTensor>,
  block: string,
  names: [gate: string, up: string, down: string],
): Map<string, FileTensor> {
  const out = new Map(tensors);
  for (let layer = 0; out.has(`model.layers.${layer}.input_layernorm.weight`); layer++) {
    const at = `model.layers.${layer}.${block}.experts`;
    const take = (name: string): FileTensor[] => {
      const list: FileTensor[] = [];
      for (let e = 0; out.has(`${at}.${e}.${name}.weight`); e++) {
        list.push(out.get(`${at}.${e}.${name}.weight`)!);
        out.delete(`${at}.${e}.${name}.weight`);
      }
      return list;
    };
    const [gate, up, down] = names.map(take) as [FileTensor[], FileTensor[], FileTensor[]];
    if (gate.length === 0) continue;
    out.set(`${at}.gate_up_proj`, stacked(gate.map((matrix, e) => above(matrix, up[e]!))));
    out.set(`${at}.down_proj`, stacked(down));
  }
  return out;
}

test.each(['qwen3_moe', 'qwen2_moe', 'olmoe', 'deepseek_v3'])('%s with fused expert tensors', async (folder) => {
  const dir = rewritten(folder, (tensors) => fuseExperts(tensors, 'mlp', ['gate_proj', 'up_proj', 'down_proj']));
  await expectSameLogits(folder, dir);
});

test('mixtral with fused expert tensors', async () => {
  await expectSameLogits(
    'mixtral',
    rewritten('mixtral', (tensors) => fuseExperts(tensors, 'block_sparse_moe', ['w1', 'w3', 'w2'])),
  );
});

test.each(['qwen3_moe', 'granitemoe', 'gpt_oss', 'deepseek_v2', 'phimoe'])('%s with bf16 values stored as f32', async (folder) => {
  await expectSameLogits(
    folder,
    rewritten(folder, (tensors) => new Map([...tensors].map(([name, tensor]) => [name, widened(tensor)]))),
  );
});

test('qwen3_moe stored in f32 and bf16 by turns: stacked weights take the wider type', async () => {
  const dir = rewritten(
    'qwen3_moe',
    (tensors) => new Map([...tensors].map(([name, tensor], i) => [name, i % 2 === 0 ? widened(tensor) : tensor])),
  );
  await expectSameLogits('qwen3_moe', dir);
});

/** e4m3 (1 sign, 4 exponent, 3 mantissa bits, bias 7, no infinities; OCP 8-bit floating point). */
function e4m3(byte: number): number {
  const exponent = (byte >> 3) & 15;
  const mantissa = byte & 7;
  const size = exponent === 0 ? mantissa * 2 ** -9 : (1 + mantissa / 8) * 2 ** (exponent - 7);
  return byte & 128 ? -size : size;
}

test('FP8 blocks are read alike whichever way a projection is used, at any rank', async () => {
  // The latent's up projection is used transposed. Blocks of 24 x 16 cross its heads and cut its rank in two.
  const [blockN, blockK] = [24, 16];
  const quantised = rewritten('deepseek_v3', (tensors) => withFp8(tensors, blockN, blockK), {
    quantization_config: { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: [blockN, blockK] },
  });
  const dequantised = rewritten('deepseek_v3', (tensors) => dequantise(withFp8(tensors, blockN, blockK), blockN, blockK));
  const [got, wanted] = await Promise.all([quantised, dequantised].map((dir) => logitsOfFolder(tinyOptions(dir), tokens)));
  expectSameBits(got!, wanted!);
});

test.each(['deepseek_v3', 'granitemoe'])('FP8 scales of %s are read alike in bf16, as Qwen publishes them, and in f32', async (folder) => {
  const block = [24, 16] as const;
  const settings = { quantization_config: { quant_method: 'fp8', fmt: 'e4m3', weight_block_size: block } };
  const [narrow, wide] = [narrowed, (tensor: FileTensor) => widened(narrowed(tensor))].map((change) =>
    rewritten(folder, (tensors) => withScales(withFp8(tensors, ...block), change), settings),
  );
  const [got, wanted] = await Promise.all([narrow, wide].map((dir) => logitsOfFolder(tinyOptions(dir!), tokens)));
  expectSameBits(got!, wanted!);
  const halves = (tensor: FileTensor) => ({ ...narrowed(tensor), dtype: 'F16' });
  const half = rewritten(folder, (tensors) => withScales(withFp8(tensors, ...block), halves), settings);
  await expect(logitsOfFolder(tinyOptions(half), tokens)).rejects.toThrow(/weight_scale_inv" at offset \d+ is F16, expected F32 or BF16/);
});

function withScales(tensors: Map<string, FileTensor>, change: (scale: FileTensor) => FileTensor): Map<string, FileTensor> {
  return new Map([...tensors].map(([name, tensor]) => [name, name.endsWith('_scale_inv') ? change(tensor) : tensor]));
}

/** The upper halves of f32 values. */
function narrowed({ shape, bytes }: FileTensor): FileTensor {
  const halves = Uint16Array.from(new Uint32Array(bytes.buffer), (word) => word >>> 16);
  return { dtype: 'BF16', shape, bytes: new Uint8Array(halves.buffer) };
}

/** Every projection but the head, stacked or not, becomes e4m3 with pseudo-random bytes and scales. */
function withFp8(tensors: Map<string, FileTensor>, blockN: number, blockK: number): Map<string, FileTensor> {
  const out = new Map(tensors);
  let state = 7;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
  for (const [name, { shape }] of tensors) {
    if (!/(proj|proj_with_mqa|_linear)\.weight$/.test(name)) continue;
    const [n, k] = shape.slice(-2) as [number, number];
    const stack = shape.slice(0, -2);
    const matrices = stack.reduce((product, size) => product * size, 1);
    // Exponents around 1: no byte is a NaN.
    out.set(name, {
      dtype: 'F8_E4M3',
      shape,
      bytes: Uint8Array.from({ length: matrices * n * k }, () => (next() & 0x87) | ((5 + (next() & 1)) << 3)),
    });
    const scaleShape = [...stack, Math.ceil(n / blockN), Math.ceil(k / blockK)];
    const scales = Float32Array.from({ length: scaleShape.reduce((product, size) => product * size) }, () => 0.05 + (next() & 1023) / 4096);
    out.set(`${name}_scale_inv`, { dtype: 'F32', shape: scaleShape, bytes: new Uint8Array(scales.buffer) });
  }
  return out;
}

function dequantise(tensors: Map<string, FileTensor>, blockN: number, blockK: number): Map<string, FileTensor> {
  const out = new Map<string, FileTensor>();
  for (const [name, tensor] of tensors) {
    if (name.endsWith('_scale_inv')) continue;
    const scale = tensors.get(`${name}_scale_inv`);
    if (scale === undefined) {
      out.set(name, tensor);
      continue;
    }
    const k = tensor.shape[1]!;
    const scales = new Float32Array(scale.bytes.buffer);
    const values = Float32Array.from(tensor.bytes, (byte, i) => {
      const row = Math.floor(i / k);
      return e4m3(byte) * scales[Math.floor(row / blockN) * scale.shape[1]! + Math.floor((i % k) / blockK)]!;
    });
    out.set(name, { dtype: 'F32', shape: tensor.shape, bytes: new Uint8Array(values.buffer) });
  }
  return out;
}

test('gpt_oss in MXFP4 equals its values in bf16, stored the other way round', async () => {
  const values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6];
  const dir = rewritten('gpt_oss_mxfp4', (tensors) => {
    const out = new Map(tensors);
    for (const [name, blocks] of tensors) {
      if (!name.endsWith('_blocks')) continue;
      const base = name.slice(0, -'_blocks'.length);
      const [experts, n, groups] = blocks.shape as [number, number, number, number];
      const k = groups * 32;
      const scales = tensors.get(`${base}_scales`)!.bytes;
      const halves = new Uint16Array(experts * k * n);
      const word = new Float32Array(1);
      const bits = new Uint32Array(word.buffer);
      for (let e = 0; e < experts; e++)
        for (let row = 0; row < n; row++)
          for (let column = 0; column < k; column++) {
            const at = (e * n + row) * k + column;
            word[0] = values[(blocks.bytes[at >> 1]! >> ((at & 1) * 4)) & 15]! * 2 ** (scales[at >> 5]! - 127);
            halves[(e * k + column) * n + row] = bits[0]! >>> 16;
          }
      out.delete(name);
      out.delete(`${base}_scales`);
      out.set(base, { dtype: 'BF16', shape: [experts, k, n], bytes: new Uint8Array(halves.buffer) });
    }
    return out;
  });
  const config = path.join(dir, 'config.json');
  writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, 'utf8')), quantization_config: undefined }));
  await expectSameLogits('gpt_oss_mxfp4', dir);
});
