import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiClient } from '../api/client.ts';
import { readClusterStatus } from '../api/cluster-status.ts';
import { CommandFailure } from '../failure.ts';
import { type RecordingStatus, stopRecording } from './recording.ts';

const periodMs = 1000;
/** Times in a row that the server may not answer: one that is busy or restarts its coordinator is not gone yet. */
const missedMax = 5;

/**
 * Shows on a terminal what has been recorded, until `signal` aborts. Returns what the server said last.
 * @throws CommandFailure once the server is gone, cannot write any more, or no longer makes this recording
 */
export async function watchRecording(
  admin: ApiClient,
  started: RecordingStatus,
  signal: AbortSignal,
  stream: NodeJS.WriteStream = process.stderr,
): Promise<RecordingStatus> {
  let missed = 0;
  let last = started;
  try {
    for (;;) {
      await sleep(periodMs, undefined, { signal }).catch(() => {});
      if (signal.aborted) return last;
      const status = await readClusterStatus(admin, signal).catch(() => null);
      if (signal.aborted) return last;
      if (status === null) {
        if (++missed >= missedMax) throw new CommandFailure(`${admin.baseUrl} does not answer any more; ${whatIsKept(last)}`);
        continue;
      }
      missed = 0;
      const { trace } = status;
      if (!trace.on || trace.file !== started.file) throw endedElsewhere(admin, last);
      last = trace;
      if (trace.failure !== null) {
        // Its answer is the same failure.
        await stopRecording(admin).catch(() => {});
        throw new CommandFailure(`${admin.baseUrl} can record no more: ${trace.failure}; ${whatIsKept(trace)}`);
      }
      if (stream.isTTY) stream.write(`\r\x1b[2K${trace.rows} tokens of ${trace.sequences} sequences${droppedText(trace)}`);
    }
  } finally {
    if (stream.isTTY) stream.write('\r\x1b[2K');
  }
}

/**
 * Ends a recording.
 * @param last what the server said of it last
 * @throws CommandFailure where the server is gone, or no longer makes this recording
 */
export async function endRecording(admin: ApiClient, last: RecordingStatus): Promise<RecordingStatus> {
  const recorded = await stopRecording(admin).catch((error: Error) => {
    throw new CommandFailure(`${error.message}; ${whatIsKept(last)}`, { cause: error });
  });
  if (recorded === null) throw endedElsewhere(admin, last);
  return recorded;
}

function endedElsewhere(admin: ApiClient, last: RecordingStatus): CommandFailure {
  return new CommandFailure(`${admin.baseUrl} has ended this recording: it was restarted, or somebody turned it off; ${whatIsKept(last)}`);
}

function whatIsKept({ files }: RecordingStatus): string {
  return `what was recorded until then is in ${files.join(', ')} on the server's machine`;
}

export function droppedText({ droppedRows }: RecordingStatus): string {
  return droppedRows > 0 ? `, ${droppedRows} lost because the disk was too slow` : '';
}
