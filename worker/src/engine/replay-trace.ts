import { existsSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { limits, parseTraceHeader, readBoundedFile, SwitchyardError, type TraceHeader } from '@switchyard/proto';

/** A routing trace as it is replayed: by token, whoever chose what. */
export interface ReplayTrace {
  file: string;
  layers: number;
  experts: number;
  topK: number;
  /** Expert ids, (tokens, layers, topK). */
  ids: Uint8Array | Uint16Array;
  /** In the order in which they begin in the file; `tokens` are rows of `ids`, in the order of the sequence. A domain of '' is none. */
  sequences: { domain: string; tokens: number[] }[];
}

/** Bytes of a record before its expert ids: sequence, position, flags. */
const RECORD_HEAD_BYTES = 9;

/**
 * Reads a trace in the project's own format (proto/src/trace.ts), also with `.gz`, whole.
 *
 * @throws SwitchyardError `invalid_request` naming the file and what is wrong with it
 */
export function readReplayTrace(file: string): ReplayTrace {
  const bytes = readBounded(file);
  const headerEnd = bytes.indexOf(10);
  const header = readHeader(file, bytes.subarray(0, Math.max(0, headerEnd)).toString('utf8'));
  const { experts, topK } = header;
  const layers = header.moeLayers.length;
  const choices = layers * topK;
  const idBytes = experts <= 256 ? 1 : 2;
  const recordBytes = RECORD_HEAD_BYTES + choices * idBytes;
  const records = (bytes.length - headerEnd - 1) / recordBytes;
  if (!Number.isInteger(records) || records < 1)
    throw bad(file, `has ${records} records of ${recordBytes} bytes; at least 1, all whole, are needed`);
  const ids = idBytes === 1 ? new Uint8Array(records * choices) : new Uint16Array(records * choices);
  const domains = readDomains(file);
  const sequences = new Map<number, ReplayTrace['sequences'][number]>();
  for (let record = 0; record < records; record++) {
    const at = headerEnd + 1 + record * recordBytes;
    const number = bytes.readUInt32LE(at);
    const sequence = sequences.get(number);
    if (sequence === undefined) sequences.set(number, { domain: domains.get(number) ?? '', tokens: [record] });
    else sequence.tokens.push(record);
    const first = at + RECORD_HEAD_BYTES;
    for (let i = 0; i < choices; i++) {
      const id = idBytes === 1 ? bytes[first + i] : bytes.readUInt16LE(first + 2 * i);
      if (id >= experts) throw bad(file, `names expert ${id} in record ${record}; the limit is ${experts - 1}`);
      ids[record * choices + i] = id;
    }
  }
  return { file, layers, experts, topK, ids, sequences: [...sequences.values()] };
}

function readBounded(file: string): Buffer {
  try {
    const bytes = readBoundedFile(file, limits.replayTraceBytesMax);
    return file.endsWith('.gz') ? gunzipSync(bytes, { maxOutputLength: limits.replayTraceBytesMax }) : bytes;
  } catch (error) {
    throw bad(file, `cannot be read: ${(error as Error).message}`);
  }
}

function readHeader(file: string, line: string): TraceHeader {
  const header = parseTraceHeader(line);
  if (header === null) throw bad(file, 'is no switchyard-trace of version 1; `switchyard trace convert` makes one of other formats');
  const { moeLayers, experts, topK } = header;
  const fits = (value: unknown, max: number) => Number.isInteger(value) && (value as number) >= 1 && (value as number) <= max;
  if (!Array.isArray(moeLayers) || !fits(moeLayers.length, limits.moeLayersMax))
    throw bad(file, `has no list of 1 to ${limits.moeLayersMax} moeLayers`);
  if (!fits(experts, limits.expertsMax)) throw bad(file, `has experts ${experts}; it must be 1 to ${limits.expertsMax}`);
  if (!fits(topK, limits.topKMax)) throw bad(file, `has topK ${topK}; it must be 1 to ${limits.topKMax}`);
  return header as TraceHeader;
}

/** Domains by sequence, from the file beside it; none where there is no such file. */
function readDomains(file: string): Map<number, string> {
  const beside = `${file.replace(/\.gz$/, '')}.sequences.jsonl`;
  const domains = new Map<number, string>();
  if (!existsSync(beside)) return domains;
  for (const line of readBounded(beside).toString('utf8').split('\n')) {
    if (line.trim() === '') continue;
    try {
      const { sequence, domain } = JSON.parse(line) as { sequence: number; domain: string | null };
      domains.set(sequence, domain ?? '');
    } catch {
      throw bad(beside, `has a line that is not JSON: ${line.slice(0, 64)}`);
    }
  }
  return domains;
}

function bad(file: string, what: string): SwitchyardError {
  return new SwitchyardError('invalid_request', `replay_routing: ${file} ${what}`, { param: 'replay_routing' });
}
