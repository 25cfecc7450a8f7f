import { createReadStream, existsSync } from 'node:fs';
import { basename } from 'node:path';
import { createGunzip } from 'node:zlib';
import { readBoundedFile } from '@switchyard/proto';
import { ByteStream } from './byte-stream.ts';
import { type IdDumpShape, readIdDump } from './id-dump.ts';
import { type LoadMatrix, readExpertPopularity, readLoadMatrix } from './load-matrix.ts';
import { readNpyTrace } from './npy.ts';
import { badTrace, type RoutingTrace, type TraceBounds } from './routing-trace.ts';
import { readSglangDump } from './sglang.ts';
import { readSwitchyardTrace } from './switchyard-format.ts';
import { readVllmJsonl } from './vllm-jsonl.ts';

export type TraceInput = { kind: 'routing'; trace: RoutingTrace } | { kind: 'loads'; loads: LoadMatrix };

/** A load matrix or a JSON sidecar is read whole: [94][4096] numbers are a few megabytes. */
const wholeFileBytesMax = 256 * 1024 * 1024;

export interface OpenTraceOptions extends Partial<TraceBounds> {
  /** Number of experts where the format does not say; by default the largest id plus one. */
  experts?: number | null;
  /** Shape of an `.experts.u8` dump, whose model then defaults to the file's stem; by default the JSON beside it, `<stem>.shape.json`. */
  shape?: (Omit<IdDumpShape, 'model'> & { model?: string }) | null;
  /** Rows of an `.npy` trace that count as one sequence. */
  sequenceTokens?: number;
}

/**
 * Opens a trace file of any supported format; a name that ends in `.gz` is unpacked on the way. The format is told by the first bytes and the name:
 *
 * | name | format |
 * | --- | --- |
 * | anything that begins with a `switchyard-trace` header | our own |
 * | `*.npy` | ExFlow, (tokens, layers) |
 * | `*.experts.u8` | id dump, with `<stem>.seq.u16le`, `<stem>.sequences.json` and `<stem>.shape.json` beside it |
 * | `*.jsonl` | vLLM style, `{req_id, token_idx, layer, topk_ids}` |
 * | `*.json` that begins `[[` and holds no objects | load matrix `[layers][experts]` |
 * | `*.json` with `expert_popularity` | Fiddler's popularity, a load matrix |
 * | other `*.json` | SGLang expert distribution |
 */
export async function openTrace(path: string, options: OpenTraceOptions = {}): Promise<TraceInput> {
  const files = new TraceFiles();
  try {
    return await readTrace(path, options, files);
  } finally {
    files.close();
  }
}

/** The files that one trace is read from. A reader that refuses a record reads no further and knows nothing of files: they are closed here. */
class TraceFiles {
  private readonly open: { destroy(): unknown }[] = [];

  async *bytes(path: string): AsyncGenerator<Uint8Array> {
    const file = createReadStream(path);
    this.open.push(file);
    let bytes: AsyncIterable<Uint8Array> = file;
    if (path.endsWith('.gz')) {
      const unpacked = createGunzip();
      this.open.push(unpacked);
      file.on('error', (error) => unpacked.destroy(error));
      bytes = file.pipe(unpacked);
    }
    try {
      yield* bytes;
    } catch (error) {
      throw badTrace(path, 'file', `cannot be read: ${(error as Error).message}`, error);
    } finally {
      file.destroy(); // unpacking that ends early does not
    }
  }

  async text(path: string): Promise<string> {
    const bytes = await new ByteStream(this.bytes(path), path).upTo(wholeFileBytesMax + 1);
    if (bytes.length > wholeFileBytesMax) throw badTrace(path, 'file', `longer than ${wholeFileBytesMax} bytes`);
    return new TextDecoder().decode(bytes);
  }

  close(): void {
    for (const file of this.open) file.destroy();
  }
}

async function readTrace(path: string, options: OpenTraceOptions, files: TraceFiles): Promise<TraceInput> {
  const name = path.replace(/\.gz$/, '');
  const start = await beginning(path, files);
  // Before what the name says: a recording may have been given any.
  if (start.startsWith('{"format":"switchyard-trace"')) {
    const beside = `${name}.sequences.jsonl`;
    return {
      kind: 'routing',
      trace: await readSwitchyardTrace(files.bytes(path), existsSync(beside) ? files.bytes(beside) : null, path, options),
    };
  }
  if (name.endsWith('.npy')) return { kind: 'routing', trace: await readNpyTrace(() => files.bytes(path), path, options) };
  if (name.endsWith('.experts.u8')) return { kind: 'routing', trace: await openIdDump(path, options, files) };
  if (name.endsWith('.jsonl')) return { kind: 'routing', trace: await readVllmJsonl(() => files.bytes(path), path, options) };
  if (/^\[\s*\[/.test(start) && !start.includes('{')) return { kind: 'loads', loads: readLoadMatrix(await files.text(path), path) };
  if (/^\{[^[\]{}]*"expert_popularity"/.test(start)) return { kind: 'loads', loads: readExpertPopularity(await files.text(path), path) };
  if (start.startsWith('{') || start.startsWith('[')) return readSglangDump(() => files.bytes(path), path, options);
  throw badTrace(path, 'byte 0', 'none of the known trace formats (see the table in docs/placement.md)');
}

async function openIdDump(path: string, options: OpenTraceOptions, files: TraceFiles): Promise<RoutingTrace> {
  const stem = path.replace(/\.experts\.u8(\.gz)?$/, '');
  const shape = options.shape ? { model: basename(stem), ...options.shape } : readShape(`${stem}.shape.json`);
  const sequenceOf = [`${stem}.seq.u16le.gz`, `${stem}.seq.u16le`].find(existsSync);
  if (sequenceOf === undefined) throw badTrace(path, 'file', `${stem}.seq.u16le(.gz) is missing`);
  const names = `${stem}.sequences.json`;
  return readIdDump(files.bytes(path), files.bytes(sequenceOf), existsSync(names) ? await files.text(names) : null, shape, path, options);
}

function readShape(path: string): IdDumpShape {
  if (!existsSync(path))
    throw badTrace(
      path,
      'file',
      'missing: an id dump does not say its shape; write {"model","layers","topK","experts"} there, or give it (--shape 24x4x32)',
    );
  try {
    const shape = JSON.parse(readBoundedFile(path, wholeFileBytesMax).toString()) as IdDumpShape | null;
    if (typeof shape === 'object' && shape !== null) return shape;
  } catch (error) {
    throw badTrace(path, 'file', (error as Error).message, error);
  }
  throw badTrace(path, 'file', 'not an object {"model","layers","topK","experts"}');
}

async function beginning(path: string, files: TraceFiles): Promise<string> {
  const bytes = files.bytes(path);
  try {
    return new TextDecoder().decode(await new ByteStream(bytes, path).upTo(4096)).trimStart();
  } finally {
    await bytes.return(undefined);
  }
}
