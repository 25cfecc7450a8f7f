import { limits, type TraceHeader } from '@switchyard/proto';
import { ByteStream, type Bytes } from './byte-stream.ts';
import { badTrace, NO_EXPERT, type RoutingTrace, shown, type TraceBounds, TraceBuilder } from './routing-trace.ts';

/** Reads our own format (proto/src/trace.ts). `sequences` is the `.sequences.jsonl` beside it, or null. */
export async function readSwitchyardTrace(
  bytes: Bytes,
  sequences: Bytes | null,
  source: string,
  bounds: Partial<TraceBounds> = {},
): Promise<RoutingTrace> {
  const stream = new ByteStream(bytes, source);
  const header = parseHeader(await stream.line(), source);
  const { model, modelType, moeLayers, experts, topK, groups } = header;
  const shape = {
    ...{ model, moeLayers, experts, topK },
    ...(typeof modelType === 'string' ? { modelType } : {}),
    ...(groups === undefined ? {} : { groups }),
  };
  const builder = new TraceBuilder(shape, source, bounds);
  const choices = header.moeLayers.length * header.topK;
  const wide = header.experts > 256;
  const recordBytes = 9 + choices * (wide ? 2 : 1);
  const ids = new Uint16Array(choices);
  for (let record = 0; ; record++) {
    const start = stream.offset;
    const taken = await stream.exactly(recordBytes);
    if (taken === null) break;
    const view = new DataView(taken.buffer, taken.byteOffset, taken.length);
    for (let i = 0; i < choices; i++) {
      ids[i] = wide ? view.getUint16(9 + 2 * i, true) : taken[9 + i];
      if (ids[i] === NO_EXPERT)
        throw badTrace(
          source,
          `record ${record} at byte ${start}`,
          `expert id ${NO_EXPERT} of layer ${Math.floor(i / topK)} is not below ${experts}`,
        );
    }
    const flags = taken[8];
    if (flags > 1) throw badTrace(source, `record ${record} at byte ${start}`, `flags are ${flags}, only bit 0 is defined`);
    builder.add(view.getUint32(0, true), view.getUint32(4, true), flags === 1, ids, 0, () => `record ${record} at byte ${start}`);
  }
  if (sequences !== null) await readSequenceLines(sequences, builder, `${source.replace(/\.gz$/, '')}.sequences.jsonl`);
  return builder.build();
}

function parseHeader(line: string | null, source: string): TraceHeader {
  let header: TraceHeader;
  try {
    header = JSON.parse(line ?? '');
  } catch {
    throw badTrace(source, 'line 1', 'the header is not JSON');
  }
  if (header?.format !== 'switchyard-trace' || header.version !== 1)
    throw badTrace(
      source,
      'line 1',
      `format is ${shown(header?.format)} version ${shown(header?.version)}, expected "switchyard-trace" version 1`,
    );
  if (!Array.isArray(header.moeLayers)) throw badTrace(source, 'line 1', 'moeLayers is not a list');
  return header;
}

async function readSequenceLines(bytes: Bytes, builder: TraceBuilder, source: string): Promise<void> {
  const stream = new ByteStream(bytes, source);
  for (let number = 1; ; number++) {
    const line = await stream.line();
    if (line === null) return;
    if (line.trim() === '') continue;
    let entry: { sequence?: unknown; domain?: unknown } | null;
    try {
      entry = JSON.parse(line);
    } catch {
      throw badTrace(source, `line ${number}`, 'not JSON');
    }
    if (typeof entry?.sequence !== 'number') throw badTrace(source, `line ${number}`, 'sequence is not a number');
    builder.nameDomain(entry.sequence, typeof entry.domain === 'string' ? entry.domain : null);
  }
}

/** Writes our own format: the chunks of the binary file, and the text of `<file>.sequences.jsonl`. `createdAt` is given, this package reads no clock. */
export function writeSwitchyardTrace(trace: RoutingTrace, createdAt: string): { chunks: Iterable<Uint8Array>; sequences: string } {
  const header: TraceHeader = {
    format: 'switchyard-trace',
    version: 1,
    model: trace.model,
    moeLayers: trace.moeLayers,
    experts: trace.experts,
    topK: trace.topK,
    ...(trace.modelType === undefined ? {} : { modelType: trace.modelType }),
    ...(trace.groups === undefined ? {} : { groups: trace.groups }),
    createdAt,
  };
  return { chunks: records(header, trace), sequences: trace.sequences.map((s) => `${JSON.stringify(s)}\n`).join('') };
}

function* records(header: TraceHeader, trace: RoutingTrace): Generator<Uint8Array> {
  yield new TextEncoder().encode(`${JSON.stringify(header)}\n`);
  const choices = trace.moeLayers.length * trace.topK;
  const wide = trace.experts > 256;
  if (trace.experts > limits.expertsMax) throw badTrace('trace', 'header', `experts is ${trace.experts}, at most ${limits.expertsMax}`);
  const recordBytes = 9 + choices * (wide ? 2 : 1);
  const position = new Uint32Array(trace.sequences.length);
  const batch = 1024; // tokens per chunk
  for (let from = 0; from < trace.tokens; from += batch) {
    const count = Math.min(batch, trace.tokens - from);
    const chunk = new Uint8Array(count * recordBytes);
    const view = new DataView(chunk.buffer);
    for (let i = 0; i < count; i++) {
      const t = from + i;
      const at = i * recordBytes;
      const sequence = trace.sequenceOf[t];
      view.setUint32(at, trace.sequences[sequence].sequence, true);
      view.setUint32(at + 4, position[sequence]++, true);
      chunk[at + 8] = trace.generated[t];
      for (let c = 0; c < choices; c++) {
        const id = trace.ids[t * choices + c];
        if (id === NO_EXPERT)
          throw badTrace('trace', `token ${t}`, 'this format has a fixed top-k: a token with fewer choices cannot be written');
        if (wide) view.setUint16(at + 9 + 2 * c, id, true);
        else chunk[at + 9 + c] = id;
      }
    }
    yield chunk;
  }
}
