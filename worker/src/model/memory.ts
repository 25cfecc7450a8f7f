import { SwitchyardError } from '@switchyard/proto';
import type { LoadOptions, NumericClass } from './contract.ts';
import type { Cache, ModelGraph } from './graph.ts';
import { formatBytes, matrixFormat } from './numeric-class.ts';

/** Tokens of one KV block (SY_KV_BLOCK). */
export const blockTokens = 16;
/** Batches of more rows than this are a mistake: a prefill chunk is some hundreds. */
const batchRowsMax = 65_536;

/** Bytes that one token takes in one layer's cache. */
function kvTokenBytes({ kvHeads, kDim, vDim, vSharesK }: Cache, { activations }: Pick<NumericClass, 'activations'>): number {
  return kvHeads * (kDim + (vSharesK ? 0 : vDim)) * (activations === 'bf16' ? 2 : 4);
}

/** Bytes that one token takes in all layers' caches. */
export function kvBytesPerToken(graph: ModelGraph, numericClass: Pick<NumericClass, 'activations'>): number {
  return graph.caches.reduce((sum, cache) => sum + kvTokenBytes(cache, numericClass), 0);
}

/** Bytes of what every worker holds of a model, whichever experts it hosts: matrices, small rows, and positions up to `maxContext`. */
export function commonBytes({ matrices, constants, ropes }: ModelGraph, numericClass: NumericClass, maxContext: number): number {
  const weights = sum(matrices, (matrix) => formatBytes(matrixFormat(matrix, numericClass), matrix.n * matrix.k));
  const angles = sum(ropes, (rope) => rope.variants.length * maxContext * rope.rotated);
  return weights + 4 * (angles + sum(constants, ({ width }) => width));
}

/** Bytes that a lane of so many rows writes: a buffer for every batch slot, and the sums of experts. */
export function laneBytes({ slots, hidden }: ModelGraph, rows: number): number {
  return rows * (8 * hidden + 4 * sum(slots, (slot) => (slot.rows === 'batch' ? slot.width : 0)));
}

/** Bytes of the logits of a step, which all lanes share. */
export function logitBytes({ slots }: ModelGraph, rows: number): number {
  return rows * 4 * sum(slots, (slot) => (slot.rows === 'logits' ? slot.width : 0));
}

/** KV blocks and the longest sequence they allow. A sequence can never be longer than the whole cache. */
export function planContext(graph: ModelGraph, options: LoadOptions, numericClass: NumericClass): { kvBlocks: number; maxContext: number } {
  for (const field of ['maxBatchRows', 'maxSequences', 'maxLogitRows'] as const) requireCount(field, options[field], batchRowsMax);
  options.laneRows?.forEach((rows, lane) => {
    requireCount(`laneRows[${lane}]`, rows, options.maxBatchRows);
  });
  const perBlock = blockTokens * kvBytesPerToken(graph, numericClass);
  if (options.kvBlocks === 0 && !(options.kvBytes >= perBlock))
    throw new SwitchyardError(
      'invalid_request',
      `kvBytes is ${options.kvBytes}, less than the ${perBlock} bytes that ${blockTokens} tokens of this model take`,
      { param: 'kvBytes' },
    );
  const kvBlocks = options.kvBlocks > 0 ? options.kvBlocks : Math.floor(options.kvBytes / perBlock);
  requireCount('kvBlocks', kvBlocks, 2 ** 31 - 1);
  const wanted = options.maxContext > 0 ? Math.min(options.maxContext, graph.maxContext) : graph.maxContext;
  return { kvBlocks, maxContext: Math.min(wanted, kvBlocks * blockTokens) };
}

function requireCount(field: string, value: number, max: number): void {
  if (!Number.isSafeInteger(value) || value < 1 || value > max)
    throw new SwitchyardError('invalid_request', `${field} is ${value}, not an integer from 1 to ${max}`, { param: field });
}

function sum<T>(list: readonly T[], value: (of: T) => number): number {
  return list.reduce((total, of) => total + value(of), 0);
}
