import { limits } from '@switchyard/proto';
import { ByteStream, type Bytes } from './byte-stream.ts';
import { badTrace, NO_EXPERT, type RoutingTrace, type TraceBounds, TraceBuilder } from './routing-trace.ts';

const widths: Record<string, { bytes: number; read: (view: DataView, at: number) => number }> = {
  '|u1': { bytes: 1, read: (v, at) => v.getUint8(at) },
  '|i1': { bytes: 1, read: (v, at) => v.getInt8(at) },
  '<u2': { bytes: 2, read: (v, at) => v.getUint16(at, true) },
  '<i2': { bytes: 2, read: (v, at) => v.getInt16(at, true) },
  '<u4': { bytes: 4, read: (v, at) => v.getUint32(at, true) },
  '<i4': { bytes: 4, read: (v, at) => v.getInt32(at, true) },
  '<u8': { bytes: 8, read: (v, at) => Number(v.getBigUint64(at, true)) },
  '<i8': { bytes: 8, read: (v, at) => Number(v.getBigInt64(at, true)) },
};

/**
 * Reads the trace of ExFlow (arXiv 2401.08383): a NumPy array of integers (tokens, layers), one expert per token and layer; (tokens, layers, topK) is read too.
 * The format has no sequences: every `sequenceTokens` consecutive rows count as one. `experts` null: the largest id plus one, found by reading twice.
 */
export async function readNpyTrace(
  open: () => Bytes,
  source: string,
  options: { experts?: number | null; sequenceTokens?: number; model?: string } & Partial<TraceBounds> = {},
): Promise<RoutingTrace> {
  const { sequenceTokens = 512, model = 'unknown' } = options;
  let experts = options.experts ?? null;
  if (experts === null) {
    let largest = 0;
    for await (const { values } of rows(open(), source)) for (const id of values) largest = Math.max(largest, id);
    experts = largest + 1;
  }
  let builder: TraceBuilder | null = null;
  for await (const { values, layers, topK, token } of rows(open(), source)) {
    builder ??= new TraceBuilder({ model, moeLayers: Array.from({ length: layers }, (_, l) => l), experts, topK }, source, options);
    builder.add(Math.floor(token / sequenceTokens), token % sequenceTokens, true, values, 0, () => `row ${token}`);
  }
  if (builder === null) throw badTrace(source, 'header', 'the array has no rows');
  return builder.build();
}

async function* rows(bytes: Bytes, source: string): AsyncGenerator<{ values: Float64Array; layers: number; topK: number; token: number }> {
  const stream = new ByteStream(bytes, source);
  const magic = await stream.exactly(8);
  if (magic === null || String.fromCharCode(...magic.subarray(1, 6)) !== 'NUMPY' || magic[0] !== 0x93)
    throw badTrace(source, 'byte 0', 'not an .npy file');
  const lengthBytes = magic[6] === 1 ? 2 : 4;
  const length = await stream.exactly(lengthBytes);
  if (length === null) throw badTrace(source, 'byte 8', 'the header is cut off');
  const headerBytes = length.reduceRight((sum, byte) => sum * 256 + byte, 0);
  if (headerBytes > 65_536) throw badTrace(source, 'byte 8', `header of ${headerBytes} bytes, at most 65536`);
  const header = new TextDecoder().decode((await stream.exactly(headerBytes)) ?? new Uint8Array(0));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1] ?? '';
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] ?? '')
    .split(',')
    .map((s) => s.trim())
    .filter((s) => s !== '')
    .map(Number);
  const width = widths[descr];
  if (width === undefined) throw badTrace(source, 'header', `descr ${descr} is not an integer type (${Object.keys(widths).join(' ')})`);
  if (!/'fortran_order':\s*False/.test(header)) throw badTrace(source, 'header', 'fortran_order must be False');
  if (shape.length < 2 || shape.length > 3 || shape.some((n) => !Number.isInteger(n) || n < 0))
    throw badTrace(source, 'header', `shape (${shape.join(', ')}), expected (tokens, layers) or (tokens, layers, topK)`);
  const [tokens, layers, topK = 1] = shape;
  // Before memory is taken for a row.
  if (layers < 1 || layers > limits.moeLayersMax || topK < 1 || topK > limits.topKMax)
    throw badTrace(
      source,
      'header',
      `shape (${shape.join(', ')}), must have 1..${limits.moeLayersMax} layers and top-1..${limits.topKMax}`,
    );
  const values = new Float64Array(layers * topK);
  for (let token = 0; token < tokens; token++) {
    const taken = await stream.exactly(values.length * width.bytes);
    if (taken === null) throw badTrace(source, `row ${token}`, `the file ends before row ${token} of ${tokens}`);
    const view = new DataView(taken.buffer, taken.byteOffset, taken.length);
    for (let i = 0; i < values.length; i++) {
      values[i] = width.read(view, i * width.bytes);
      if (values[i] < 0 || values[i] >= NO_EXPERT)
        throw badTrace(source, `row ${token}`, `expert id is ${values[i]}, must be in 0..${NO_EXPERT - 1}`);
    }
    yield { values, layers, topK, token };
  }
  if ((await stream.upTo(1)).length > 0) throw badTrace(source, `row ${tokens}`, `the file goes on after the ${tokens} rows of its header`);
}
