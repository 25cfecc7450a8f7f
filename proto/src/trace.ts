/**
 * The routing trace: which experts each token chose, layer by layer, with sequence and domain. Traces reveal prompts: treat files as secrets.
 *
 * A file is a header line of JSON, a newline, then binary records until the end (little endian, no padding):
 *
 *   u32 sequence        index given by the recorder, consecutive tokens of a sequence are in order; sequences may interleave
 *   u32 position        token position in the sequence
 *   u8  flags           bit 0: the token was generated (else prompt)
 *   then moeLayers * topK expert ids, u8 if experts <= 256 else u16, in descending router score, layer-major
 *
 * `<file>.sequences.jsonl` has a line for each sequence: {"sequence":0,"domain":"novels","tokens":123}. Lines are written as sequences begin, without `tokens`, and replaced
 * when the file ends.
 */
export interface TraceHeader {
  format: 'switchyard-trace';
  version: 1;
  model: string;
  /** `model_type` of its checkpoint, by which plans name the models that they fit; absent in traces of other origin. */
  modelType?: string;
  moeLayers: number[];
  experts: number;
  topK: number;
  /** Groups of consecutive experts, where the model's router keeps a token inside a few of them. */
  groups?: number;
  createdAt: string;
}

/** The header in the first line of a trace, its other fields unchecked; null where a file begins as something else. */
export function parseTraceHeader(line: string): Partial<TraceHeader> | null {
  try {
    const header = JSON.parse(line) as Partial<TraceHeader> | null;
    return header?.format === 'switchyard-trace' && header.version === 1 ? header : null;
  } catch {
    return null;
  }
}

export interface TraceSequence {
  sequence: number;
  domain: string | null;
  tokens: number;
}
