import type { Bytes } from './byte-stream.ts';
import { jsonEvents } from './json-events.ts';
import { type LoadMatrix, loadMatrixOf } from './load-matrix.ts';
import { badTrace, NO_EXPERT, positionMax, type RoutingTrace, shown, type TraceBounds, TraceBuilder } from './routing-trace.ts';
import { type Pass, passMode, RequestLinks } from './sglang-requests.ts';

/** Ids of one record (one forward pass of one rank): 61 layers x 16,384 tokens x top-8 is 8 million. */
const recordIdsMax = 32_000_000;

/**
 * Reads an expert-distribution dump of SGLang as JSON: anywhere in the file, objects with `topk_ids_of_layer` (layers, tokens, topK), -1 for no choice, and
 * optionally `positions` (tokens), `extend_seq_lens`, `forward_mode` and `rank`, by which tokens find their sequence (`RequestLinks`). With `physical_to_logical_map` or
 * `last_physical_to_logical_map` (layers, slots) the ids are physical and are mapped back. A file with `logical_count` (layers, experts) or
 * (steps, layers, experts) and no ids is a load matrix.
 *
 * The layers are all hidden layers of the model. Those in which nobody chose an expert are dense: they are left out, and the others named by their index.
 */
export async function readSglangDump(
  open: () => Bytes,
  source: string,
  options: { experts?: number | null; model?: string } & Partial<TraceBounds> = {},
): Promise<{ kind: 'routing'; trace: RoutingTrace } | { kind: 'loads'; loads: LoadMatrix }> {
  // First pass: the map, the number of experts, and whether there are ids at all.
  let map: number[][] | null = null;
  let largest = -1;
  let sawIds = false;
  let shape: number[] | null = null;
  const used = new Set<number>();
  const counts = { flat: [] as number[], layers: 0, experts: 0 };
  for await (const found of arrays(open(), source, [
    'topk_ids_of_layer',
    'physical_to_logical_map',
    'last_physical_to_logical_map',
    'logical_count',
  ])) {
    if (found.key === 'topk_ids_of_layer') {
      sawIds = true;
      // A rank that had nothing to do in a pass has no ids.
      if (found.flat.length === 0) continue;
      shape ??= found.shape;
      checkIds(found, shape, source);
      const perLayer = found.flat.length / found.shape[0];
      found.flat.forEach((id, i) => {
        if (id < 0) return;
        largest = Math.max(largest, id);
        used.add(Math.floor(i / perLayer));
      });
    } else if (found.key.endsWith('physical_to_logical_map')) {
      if (found.shape.length !== 2)
        throw badTrace(source, `byte ${found.offset}`, `${found.key} has ${found.shape.length} dimensions, expected (layers, slots)`);
      const next = Array.from({ length: found.shape[0] }, (_, l) => found.flat.slice(l * found.shape[1], (l + 1) * found.shape[1]));
      // Ids before and after a rebalancing name other experts.
      if (map !== null && JSON.stringify(map) !== JSON.stringify(next))
        throw badTrace(source, `byte ${found.offset}`, `${found.key} is not the map that was given before; a file must have one`);
      map = next;
    } else if (found.key === 'logical_count') addCounts(counts, found, source);
  }
  if (!sawIds) {
    if (counts.layers === 0) throw badTrace(source, 'end', 'neither topk_ids_of_layer nor logical_count found');
    return { kind: 'loads', loads: usedLayers(loadMatrixOf(counts.flat, counts.layers, counts.experts, source), source) };
  }
  if (used.size === 0) throw badTrace(source, 'end', 'no token chose an expert in any layer');
  const moeLayers = [...used].sort((a, b) => a - b);
  if (map !== null) largest = map.reduce((max, row) => row.reduce((m, id) => Math.max(m, id), max), -1);
  const experts = options.experts ?? largest + 1;
  let builder: TraceBuilder | null = null;
  const links = new RequestLinks();
  let records = 0;
  const add = ({ flat: ids, shape: [, tokens, topK] }: FoundArray, given: number[] | null, pass: Pass) => {
    const record = `record ${++records}`;
    if (given !== null && given.length !== tokens)
      throw badTrace(source, record, `positions holds ${given.length} numbers, must be as many as the ${tokens} tokens`);
    const positions = given ?? Array.from({ length: tokens }, (_, t) => t);
    for (const position of positions)
      if (!Number.isInteger(position) || position < 0 || position > positionMax)
        throw badTrace(source, record, `position is ${position}, must be an integer from 0 to ${positionMax}`);
    builder ??= new TraceBuilder({ model: options.model ?? 'unknown', moeLayers, experts, topK }, source, options);
    const { sequenceOf, decoding } = links.link(pass, given, tokens, (problem) => badTrace(source, record, problem));
    const row = new Uint16Array(moeLayers.length * topK);
    for (let t = 0; t < tokens; t++) {
      const place = () => `sequence ${sequenceOf[t]}, position ${positions[t]}`;
      moeLayers.forEach((layer, l) => {
        for (let k = 0; k < topK; k++) row[l * topK + k] = logicalId(ids[(layer * tokens + t) * topK + k], layer, map, source, place);
      });
      builder.add(sequenceOf[t], positions[t], decoding[t] === 1, row, 0, place);
    }
  };
  // What is said of a pass may stand before or after its ids.
  let ids: FoundArray | null = null;
  let positions: number[] | null = null;
  let pass: Pass = { rank: 0, mode: null, extendLengths: null };
  const keys = ['topk_ids_of_layer', 'positions', 'extend_seq_lens', 'forward_mode', 'rank', '}'];
  for await (const found of arrays(open(), source, keys)) {
    if (found.key === 'positions') positions = found.flat;
    else if (found.key === 'extend_seq_lens') pass.extendLengths = found.flat;
    else if (found.key === 'forward_mode') pass.mode = found.scalar === null ? null : passMode(found.scalar);
    else if (found.key === 'rank') pass.rank = Number(found.scalar) || 0;
    else if (found.key === '}') {
      if (ids !== null) add(ids, positions, pass);
      ids = null;
      positions = null;
      pass = { rank: pass.rank, mode: null, extendLengths: null };
    } else if (found.flat.length > 0) ids = found;
  }
  return { kind: 'routing', trace: builder!.build() };
}

/** Ids of a pass must have the shape of the first pass's, but for their tokens, and be numbers of experts, or below 0 where there is no choice. */
function checkIds({ flat, shape, offset }: FoundArray, first: number[], source: string): void {
  const refuse = (problem: string) => badTrace(source, `byte ${offset}`, `topk_ids_of_layer ${problem}`);
  if (shape.length !== 3) throw refuse(`has ${shape.length} dimensions, expected (layers, tokens, topK)`);
  if (shape[0] !== first[0] || shape[2] !== first[2])
    throw refuse(`is (${shape.join(', ')}) after records of ${first[0]} layers and top-${first[2]}`);
  for (const id of flat) if (!Number.isInteger(id) || id >= NO_EXPERT) throw refuse(`holds ${id}, must hold integers below ${NO_EXPERT}`);
}

/** The expert that a recorded id means. @param map logical experts of the physical ones, (layers) of (slots); null: ids are logical */
function logicalId(id: number, layer: number, map: number[][] | null, source: string, place: () => string): number {
  if (id < 0) return NO_EXPERT;
  if (map === null) return id;
  if (layer >= map.length) throw badTrace(source, place(), `layer ${layer}: the map of physical experts has ${map.length} layers`);
  const logical = map[layer][id];
  if (logical === undefined)
    throw badTrace(source, place(), `layer ${layer}: physical expert ${id} is not below the ${map[layer].length} slots of the map`);
  if (!Number.isInteger(logical) || logical < 0 || logical >= NO_EXPERT)
    throw badTrace(
      source,
      place(),
      `layer ${layer}: the map says that physical expert ${id} is ${logical}, must be an integer from 0 to ${NO_EXPERT - 1}`,
    );
  return logical;
}

/** The layers that anybody uses, named by their index in the model. */
function usedLayers({ layers, experts, counts }: LoadMatrix, source: string): LoadMatrix {
  const rows = Array.from({ length: layers }, (_, l) => counts.subarray(l * experts, (l + 1) * experts));
  const moeLayers = rows.flatMap((row, l) => (row.some((count) => count > 0) ? [l] : []));
  if (moeLayers.length === 0) throw badTrace(source, 'end', 'logical_count is 0 in all layers');
  const kept = new Float64Array(moeLayers.length * experts);
  moeLayers.forEach((layer, l) => {
    kept.set(rows[layer], l * experts);
  });
  return { layers: moeLayers.length, experts, moeLayers, counts: kept };
}

function addCounts(counts: { flat: number[]; layers: number; experts: number }, found: FoundArray, source: string): void {
  const [layers, experts] = found.shape.slice(-2);
  if (found.shape.length < 2 || (counts.layers !== 0 && (layers !== counts.layers || experts !== counts.experts)))
    throw badTrace(source, `byte ${found.offset}`, `logical_count of shape (${found.shape.join(', ')})`);
  counts.layers = layers;
  counts.experts = experts;
  found.flat.forEach((count, i) => {
    const at = i % (layers * experts);
    counts.flat[at] = (counts.flat[at] ?? 0) + count;
  });
}

/** Keys under which something other than an array says something. */
const scalarKeys = ['forward_mode', 'rank'];

interface FoundArray {
  key: string;
  /** A number or text that stands under the key instead of an array; null: there is an array. */
  scalar: number | string | null;
  flat: number[];
  shape: number[];
  offset: number;
}

/** The rectangular arrays of numbers under the given keys, and their scalars, one at a time; the key "}" reports the end of every object that held one. */
async function* arrays(bytes: Bytes, source: string, keys: string[]): AsyncGenerator<FoundArray> {
  let key: string | null = null;
  let depth = 0;
  let flat: number[] = [];
  let shape: number[] = [];
  let filled: number[] = [];
  const objectHeldOne: boolean[] = [];
  const brackets: string[] = [];
  for await (const events of jsonEvents(bytes, source))
    for (const event of events) {
      if (key === null) {
        if (event.kind === 'key' && keys.includes(event.key)) key = event.key;
        else if (event.kind === 'open') {
          brackets.push(event.bracket);
          objectHeldOne.push(false);
        } else if (event.kind === 'close') {
          const held = objectHeldOne.pop();
          if (brackets.pop() === '{' && held && keys.includes('}'))
            yield { key: '}', scalar: null, flat: [], shape: [], offset: event.offset };
        }
        continue;
      }
      if (event.kind === 'value') {
        if (depth === 0) {
          const { value, offset } = event;
          if (scalarKeys.includes(key) && (typeof value === 'number' || typeof value === 'string'))
            yield { key, scalar: value, flat: [], shape: [], offset };
          key = null;
          continue;
        }
        if (typeof event.value !== 'number')
          throw badTrace(source, `byte ${event.offset}`, `${key} holds ${shown(event.value)}, expected numbers`);
        if (flat.length === recordIdsMax) throw badTrace(source, `byte ${event.offset}`, `${key} holds more than ${recordIdsMax} numbers`);
        flat.push(event.value);
        filled[depth - 1]++;
      } else if (event.kind === 'open') {
        if (event.bracket === '{')
          throw badTrace(source, `byte ${event.offset}`, `${key} holds an object, expected nested lists of numbers`);
        if (depth > 0) filled[depth - 1]++;
        filled[depth++] = 0;
      } else if (event.kind === 'close') {
        depth--;
        const size = filled[depth];
        if (shape[depth] !== undefined && shape[depth] !== size)
          throw badTrace(source, `byte ${event.offset}`, `${key} is ragged: ${size} entries after lists of ${shape[depth]}`);
        shape[depth] = size;
        if (depth === 0) {
          const numbers = shape.reduce((a, b) => a * b, 1);
          if (flat.length !== numbers)
            throw badTrace(source, `byte ${event.offset}`, `${key} is ragged: ${flat.length} numbers in a list of (${shape.join(', ')})`);
          if (objectHeldOne.length > 0) objectHeldOne[objectHeldOne.length - 1] = true;
          yield { key, scalar: null, flat, shape, offset: event.offset };
          key = null;
          flat = [];
          shape = [];
          filled = [];
        }
      }
    }
}
