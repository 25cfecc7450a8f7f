import { limits } from '@switchyard/proto';
import { ByteStream, type Bytes } from './byte-stream.ts';
import {
  badTrace,
  layerMax,
  NO_EXPERT,
  positionMax,
  type RoutingTrace,
  sequencesMax,
  shown,
  type TraceBounds,
  TraceBuilder,
} from './routing-trace.ts';

/** Tokens that may be waiting for their remaining layers at one time, and choices that they may have: 256 MB. */
const openTokensMax = 200_000;
const openChoicesMax = 128 * 1024 * 1024;

interface Line {
  req_id: string | number;
  token_idx: number;
  layer: number;
  topk_ids: number[];
}

/**
 * Reads JSONL with one line per request, token and layer: `{req_id, token_idx, layer, topk_ids}`. Lines of different tokens may interleave. The layers, the
 * top-k and the number of experts are found by a first pass.
 */
export async function readVllmJsonl(
  open: () => Bytes,
  source: string,
  options: { experts?: number | null; model?: string } & Partial<TraceBounds> = {},
): Promise<RoutingTrace> {
  const layersSeen = new Set<number>();
  let topK = 1;
  let largest = 0;
  for await (const { line } of lines(open(), source)) {
    layersSeen.add(line.layer);
    topK = Math.max(topK, line.topk_ids.length);
    for (const id of line.topk_ids) largest = Math.max(largest, id);
  }
  if (layersSeen.size === 0) throw badTrace(source, 'line 1', 'the file is empty');
  const moeLayers = [...layersSeen].sort((a, b) => a - b);
  const layerIndex = new Map(moeLayers.map((layer, i) => [layer, i]));
  const shape = { model: options.model ?? 'unknown', moeLayers, experts: options.experts ?? largest + 1, topK };
  const builder = new TraceBuilder(shape, source, options);
  const sequences = new Map<string, number>();
  const waitingMax = Math.min(openTokensMax, Math.floor(openChoicesMax / (moeLayers.length * topK)));
  const waiting = new Map<string, { ids: Uint16Array; left: number; sequence: number; position: number }>();
  for await (const { line, number } of lines(open(), source)) {
    const request = String(line.req_id);
    let sequence = sequences.get(request);
    if (sequence === undefined) {
      if (sequences.size === sequencesMax) throw badTrace(source, `line ${number}`, `more than ${sequencesMax} requests`);
      sequence = sequences.size;
      sequences.set(request, sequence);
    }
    const key = `${sequence} ${line.token_idx}`;
    let token = waiting.get(key);
    if (token === undefined) {
      if (waiting.size === waitingMax) throw badTrace(source, `line ${number}`, `more than ${waitingMax} tokens lack a layer`);
      token = { ids: new Uint16Array(moeLayers.length * topK).fill(NO_EXPERT), left: moeLayers.length, sequence, position: line.token_idx };
      waiting.set(key, token);
    }
    const at = layerIndex.get(line.layer)! * topK;
    if (token.ids[at] !== NO_EXPERT)
      throw badTrace(source, `line ${number}`, `layer ${line.layer} of token ${line.token_idx} of request ${request} was there before`);
    token.ids.set(line.topk_ids, at);
    if (--token.left > 0) continue;
    waiting.delete(key);
    builder.add(sequence, line.token_idx, false, token.ids, 0, () => `line ${number} (request ${request}, token ${line.token_idx})`);
  }
  if (waiting.size > 0) {
    const { position, left } = waiting.values().next().value!;
    throw badTrace(
      source,
      'end',
      `${waiting.size} tokens lack layers, the first at position ${position} lacks ${left} of ${moeLayers.length}`,
    );
  }
  return builder.build();
}

async function* lines(bytes: Bytes, source: string): AsyncGenerator<{ line: Line; number: number }> {
  const stream = new ByteStream(bytes, source);
  for (let number = 1; ; number++) {
    const text = await stream.line();
    if (text === null) return;
    if (text.trim() === '') continue;
    let line: Line;
    try {
      line = JSON.parse(text);
    } catch {
      throw badTrace(source, `line ${number}`, 'not JSON');
    }
    if (typeof line !== 'object' || line === null) throw badTrace(source, `line ${number}`, 'not an object');
    const fault =
      typeof line.req_id !== 'string' && typeof line.req_id !== 'number'
        ? 'req_id is missing'
        : String(line.req_id).length > limits.nameLengthMax
          ? `req_id is ${shown(line.req_id)}, must be text of at most ${limits.nameLengthMax}`
          : !Number.isInteger(line.token_idx) || line.token_idx < 0 || line.token_idx > positionMax
            ? `token_idx is ${shown(line.token_idx)}, must be an integer from 0 to ${positionMax}`
            : !Number.isInteger(line.layer) || line.layer < 0 || line.layer > layerMax
              ? `layer is ${shown(line.layer)}, must be an integer from 0 to ${layerMax}`
              : !Array.isArray(line.topk_ids) ||
                  line.topk_ids.length < 1 ||
                  !line.topk_ids.every((id) => Number.isInteger(id) && id >= 0 && id < NO_EXPERT)
                ? `topk_ids is ${shown(line.topk_ids)}`
                : new Set(line.topk_ids).size < line.topk_ids.length
                  ? `topk_ids is ${shown(line.topk_ids)}, an expert appears twice`
                  : null;
    if (fault !== null) throw badTrace(source, `line ${number}`, fault);
    yield { line, number };
  }
}
