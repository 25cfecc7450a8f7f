import { limits } from '@switchyard/proto';
import { ByteStream, type Bytes } from './byte-stream.ts';
import { badTrace, type RoutingTrace, shown, type TraceBounds, TraceBuilder } from './routing-trace.ts';

/** What an id dump does not say about itself. */
export interface IdDumpShape {
  model: string;
  layers: number;
  topK: number;
  experts: number;
}

/**
 * Reads a bare dump: expert ids as uint8 (tokens, layers, topK), the sequence of each token as little-endian uint16 (tokens), and a JSON list of sequences
 * `{sequence, dataset, category, tokens}`. Every token counts as generated. The domain of a sequence is `dataset/category`.
 */
export async function readIdDump(
  ids: Bytes,
  sequenceOf: Bytes,
  sequencesJson: string | null,
  shape: IdDumpShape,
  source: string,
  bounds: Partial<TraceBounds> = {},
): Promise<RoutingTrace> {
  if (!Number.isInteger(shape.layers) || shape.layers < 1 || shape.layers > limits.moeLayersMax)
    throw badTrace(source, 'shape', `layers is ${shown(shape.layers)}, must be an integer from 1 to ${limits.moeLayersMax}`);
  const moeLayers = Array.from({ length: shape.layers }, (_, l) => l);
  const builder = new TraceBuilder({ model: shape.model, moeLayers, experts: shape.experts, topK: shape.topK }, source, bounds);
  const idStream = new ByteStream(ids, source);
  const sequenceStream = new ByteStream(sequenceOf, source);
  const row = shape.layers * shape.topK;
  const tokensOf = new Uint32Array(0x1_0000); // so far, by sequence
  for (let token = 0; ; token++) {
    const taken = await idStream.exactly(row);
    const two = await sequenceStream.exactly(2);
    if (taken === null && two === null) break;
    if (taken === null || two === null) throw badTrace(source, `token ${token}`, 'ids and sequences have different numbers of tokens');
    const sequence = two[0] | (two[1] << 8);
    builder.add(sequence, tokensOf[sequence]++, true, taken, 0, () => `token ${token} at byte ${token * row}`);
  }
  if (sequencesJson !== null) nameDomains(sequencesJson, builder, source);
  return builder.build();
}

function nameDomains(text: string, builder: TraceBuilder, source: string): void {
  let list: unknown;
  try {
    list = JSON.parse(text);
  } catch {
    throw badTrace(source, 'sequences', 'not JSON');
  }
  if (!Array.isArray(list)) throw badTrace(source, 'sequences', 'not a list');
  list.forEach((entry: { sequence?: unknown; dataset?: unknown; category?: unknown; domain?: unknown } | null, i) => {
    if (typeof entry?.sequence !== 'number') throw badTrace(source, `sequences entry ${i}`, 'sequence is not a number');
    const parts = [entry.dataset, entry.category].filter((part) => typeof part === 'string');
    const { domain } = entry;
    builder.nameDomain(entry.sequence, typeof domain === 'string' ? domain : parts.length > 0 ? parts.join('/') : null);
  });
}
