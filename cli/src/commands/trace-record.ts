import path from 'node:path';
import { Command } from 'commander';
import { ApiClient, ApiError } from '../api/client.ts';
import { administer, findSession } from '../cluster/session.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import { checkNewOutput } from '../terminal/output-file.ts';
import { counted } from '../terminal/quantity.ts';
import { print } from '../terminal/visible.ts';
import type { RecordingStatus } from '../trace/recording.ts';
import { earlierRecording, moveRecording, removeRest, startRecording } from '../trace/recording.ts';
import { droppedText, endRecording, watchRecording } from '../trace/recording-watch.ts';
import { checkTraceName } from '../trace/trace-name.ts';
import { interruptSignal } from './interrupt.ts';
import { defaultUrl, readSecret } from './server-options.ts';

interface RecordOptions {
  out: string;
  url: string;
  adminTokenFile?: string;
  force?: boolean;
  json?: boolean;
}

const requestMsMax = 60_000;

export function traceRecordCommand(): Command {
  return new Command('record')
    .description('Record which experts the requests of a running server use, until Ctrl-C')
    .requiredOption(
      '--out <file>',
      'file to write, readable by you alone, for it reveals prompts; with --admin-token-file the recording stays with the server, under a name that begins like it',
    )
    .option('--url <url>', 'server to record', defaultUrl)
    .option('--admin-token-file <file>', "the server's admin token (not needed for your own `switchyard up` on this machine)")
    .option('--force', 'replace an existing recording')
    .option('--json', 'print the counts as JSON')
    .addHelpText(
      'after',
      `
Give requests a domain with the header x-switchyard-domain, so that kinds of text can be told apart.

Example:
  $ switchyard trace record --out requests.trace`,
    )
    .action(async (options: RecordOptions) => {
      checkTraceName(options.out, '--out');
      checkNewOutput(options.out, '--out', options.force === true);
      const earlier = earlierRecording(options.out);
      for (const file of earlier) checkNewOutput(file, '--out', options.force === true);
      const { admin, local } = connectAsAdmin(options);
      const interrupt = interruptSignal();
      const name = `${path
        .basename(options.out)
        .replace(/[^\w.-]/g, '_')
        .replace(/^[^\w]/, '_')
        .slice(0, 64)}-${Date.now()}`;
      let recorded: RecordingStatus;
      try {
        const started = await startRecording(admin, name, interrupt.signal).catch(explainRefusal(options.url, interrupt.signal));
        process.stderr.write(`recording ${options.url}; Ctrl-C ends it\n`);
        recorded = await endRecording(admin, await watchRecording(admin, started, interrupt.signal));
      } finally {
        admin.close();
        interrupt.release();
      }
      const files = local ? moveRecording(recorded.files, options.out) : recorded.files;
      if (local) removeRest(earlier, files);
      report(options, recorded, files, local);
    });
}

/** Our own server on this machine tells its token and where its files are; for any other the token must be given and the files stay there. */
function connectAsAdmin({ url, adminTokenFile }: RecordOptions): { admin: ApiClient; local: boolean } {
  if (adminTokenFile !== undefined)
    return {
      admin: new ApiClient({ url, apiKey: readSecret(adminTokenFile, '--admin-token-file'), timeoutMs: requestMsMax }),
      local: false,
    };
  const session = findSession(new ApiClient({ url, apiKey: null, timeoutMs: requestMsMax }).baseUrl);
  if (session === null)
    throw new CommandFailure(
      `you have no \`switchyard up\` on this machine that serves ${url}: start one, or give the server's --admin-token-file`,
    );
  if (session.traces.dir === null)
    throw new CommandFailure(`${url} has nowhere to keep traces: ${session.traces.reason}; start it with --trace-dir`);
  return { admin: administer(session, requestMsMax), local: true };
}

function explainRefusal(url: string, signal: AbortSignal): (error: unknown) => never {
  return (error) => {
    if (signal.aborted)
      throw new CommandFailure(`interrupted before ${url} answered: it may record all the same, until it is restarted or told not to`, {
        status: exitStatus.interrupted,
        cause: error,
      });
    if (error instanceof ApiError && (error.status === 401 || error.status === 404))
      throw new CommandFailure(`${url} does not let this token record: ${error.message}`, { cause: error });
    throw error;
  };
}

function report(options: RecordOptions, recorded: RecordingStatus, files: string[], local: boolean): void {
  const { sequences, rows, droppedRows } = recorded;
  if (options.json) {
    print(
      `${JSON.stringify({ format: 'switchyard-trace-recording', version: 1, files, sequences, tokens: rows, droppedTokens: droppedRows })}\n`,
    );
    return;
  }
  print(
    `${counted(rows, 'token')} of ${counted(sequences, 'sequence')}${droppedText(recorded)}\n${files.map((file) => `  ${file}${local ? '' : " (on the server's machine)"}\n`).join('')}`,
  );
}
