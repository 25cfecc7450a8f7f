import path from 'node:path';
import { badCheckpoint, quoted } from '../checkpoint/bad-checkpoint.ts';
import { readSafetensorsHeader, type TensorInfo } from '../checkpoint/safetensors-header.ts';
import { readTensorBytes } from '../checkpoint/tensor-bytes.ts';
import type { ModelShape } from '../model/contract.ts';

/** What an independent implementation computed for one prompt. */
export interface ExpectedCase {
  index: number;
  /** (tokens) */
  tokens: Int32Array;
  /** (tokens, vocab): row t follows tokens 0..t */
  logits: Float32Array;
  /** Greedy continuation. */
  generated: Int32Array;
  /** (MoE layers, tokens, topK) ascending ids; null where the reference did not record them. */
  experts: Int32Array | null;
}

export const expectedFile = 'expected.safetensors';
/** Everything is read into memory: this is for tiny checkpoints and short prompts. */
const expectedBytesMax = 2 ** 31;

/** Cases 0, 1, … of `expected.safetensors` in a checkpoint's directory. Throws `bad_checkpoint` naming file and tensor. */
export function readExpectedCases(dir: string, shape: Pick<ModelShape, 'vocab' | 'topK' | 'moeLayers'>): ExpectedCase[] {
  const file = path.join(dir, expectedFile);
  const tensors = readSafetensorsHeader(file);
  const cases: ExpectedCase[] = [];
  for (let index = 0; tensors.has(`case${index}.tokens`); index++) cases.push(readCase(file, tensors, index, shape));
  if (cases.length === 0) throw badCheckpoint(file, 'tensor "case0.tokens" is missing', 'case0.tokens');
  return cases;
}

function readCase(
  file: string,
  tensors: ReadonlyMap<string, TensorInfo>,
  index: number,
  { vocab, topK, moeLayers }: Pick<ModelShape, 'vocab' | 'topK' | 'moeLayers'>,
): ExpectedCase {
  /** `null` in a shape: any size from 1. */
  const read = (name: string, dtype: 'I32' | 'F32', shape: (number | null)[]): ArrayBuffer => {
    const full = `case${index}.${name}`;
    const tensor = tensors.get(full);
    if (tensor === undefined) throw badCheckpoint(file, `tensor ${quoted(full)} is missing`, full);
    const fits =
      tensor.shape.length === shape.length && shape.every((size, i) => (size === null ? tensor.shape[i]! > 0 : tensor.shape[i] === size));
    if (tensor.dtype !== dtype || !fits)
      throw badCheckpoint(
        file,
        `tensor ${quoted(full)} at offset ${tensor.offset} is ${tensor.dtype} [${tensor.shape}], expected ${dtype} [${shape.map((size) => size ?? 'any')}]`,
        full,
      );
    if (tensor.bytes > expectedBytesMax)
      throw badCheckpoint(file, `tensor ${quoted(full)} has ${tensor.bytes} bytes, the limit is ${expectedBytesMax}`, full);
    return readTensorBytes(tensor);
  };
  const tokens = new Int32Array(read('tokens', 'I32', [null]));
  const wrong = tokens.find((token) => token < 0 || token >= vocab);
  if (wrong !== undefined)
    throw badCheckpoint(file, `tensor "case${index}.tokens" holds ${wrong}; the vocabulary has ${vocab}`, `case${index}.tokens`);
  return {
    index,
    tokens,
    logits: new Float32Array(read('logits', 'F32', [tokens.length, vocab])),
    generated: new Int32Array(read('generated', 'I32', [null])),
    experts: tensors.has(`case${index}.experts`) ? new Int32Array(read('experts', 'I32', [moeLayers.length, tokens.length, topK])) : null,
  };
}
