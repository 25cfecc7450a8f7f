import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { constants, gunzipSync } from 'node:zlib';
import { limits, type Plan, parseTraceHeader, SwitchyardError, type TraceHeader } from '@switchyard/proto';

/** A header is a few hundred bytes; one that lists every layer that a model may have, 8 KiB. */
const HEADER_BYTES_MAX = 64 * 1024;

/**
 * Refuses what no worker will replay, before any of them has loaded the model: whatever does not begin as a trace of this model's shape. Workers read all of it.
 *
 * @throws SwitchyardError `invalid_request` naming the option
 */
export function checkReplayedTrace(file: string, model: Plan['model'], topK: number): void {
  const refuse = (what: string, cause?: unknown) =>
    new SwitchyardError('invalid_request', `--replay-routing ${file}: ${what}`, { param: 'replay_routing', cause });
  let header: Partial<TraceHeader> | null = null;
  try {
    const found = statSync(file);
    if (!found.isFile()) throw refuse('it is no file');
    if (found.size > limits.replayTraceBytesMax) throw refuse(`it has ${found.size} bytes; the limit is ${limits.replayTraceBytesMax}`);
    header = parseTraceHeader(firstLine(file));
  } catch (error) {
    throw error instanceof SwitchyardError ? error : refuse((error as Error).message, error);
  }
  if (!Array.isArray(header?.moeLayers))
    throw refuse('it is no switchyard-trace of version 1; `switchyard trace convert` makes one of other formats');
  const [theirs, ours] = [
    [header.moeLayers.length, header.experts, header.topK],
    [model.moeLayers.length, model.experts, topK],
  ].map(([layers, experts, chosen]) => `${layers} MoE layers, ${experts} experts and top ${chosen}`);
  if (theirs !== ours) throw refuse(`it is of a model of ${theirs}; this one has ${ours}`);
}

function firstLine(file: string): string {
  const bytes = Buffer.alloc(HEADER_BYTES_MAX);
  const opened = openSync(file, 'r');
  try {
    const read = bytes.subarray(0, readSync(opened, bytes));
    // It ends in the midst of what was packed.
    const text = file.endsWith('.gz') ? gunzipSync(read, { finishFlush: constants.Z_SYNC_FLUSH }) : read;
    return text.subarray(0, Math.max(0, text.indexOf(10))).toString();
  } finally {
    closeSync(opened);
  }
}
