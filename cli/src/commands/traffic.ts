import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import { ApiClient } from '../api/client.ts';
import { type ClusterStatus, readClusterStatus } from '../api/cluster-status.ts';
import { connectToSession } from '../cluster/session.ts';
import { CommandFailure } from '../failure.ts';
import { numberIn } from '../terminal/option-values.ts';
import { print } from '../terminal/visible.ts';
import { type TrafficReport, trafficReport } from '../traffic/traffic-report.ts';
import { trafficText } from '../traffic/traffic-text.ts';
import { interruptSignal } from './interrupt.ts';
import { defaultUrl, readSecret } from './server-options.ts';

interface TrafficOptions {
  url: string;
  adminTokenFile?: string;
  watch?: boolean;
  interval: number;
  json?: boolean;
}

const requestMsMax = 60_000;

export function trafficCommand(): Command {
  return new Command('traffic')
    .description('Show what workers and nodes exchange, and whether it is what the formula and the plan say')
    .option('--url <url>', 'server to look at', defaultUrl)
    .option('--admin-token-file <file>', "the server's admin token (not needed for your own `switchyard up` on this machine)")
    .option('--watch', 'show rates, again and again, until Ctrl-C')
    .option('--interval <seconds>', 'between two readings with --watch; workers report once a second', numberIn(1, 3600), 2)
    .option('--json', 'print as JSON, one line each time')
    .addHelpText('after', '\nExample:\n  $ switchyard traffic --watch')
    .action(async (options: TrafficOptions) => {
      const client = connectAsOperator(options);
      const interrupt = interruptSignal();
      try {
        await (options.watch ? watch : once)(client, options, interrupt.signal);
      } finally {
        interrupt.release();
        client.close();
      }
    });
}

async function once(client: ApiClient, options: TrafficOptions, signal: AbortSignal): Promise<void> {
  show(trafficReport(null, await read(client, options, signal), null), options);
}

async function watch(client: ApiClient, options: TrafficOptions, signal: AbortSignal): Promise<void> {
  // Ctrl-C is how this ends, in the midst of a reading too.
  const readUntilTold = () =>
    read(client, options, signal).catch((error: unknown) => {
      if (!signal.aborted) throw error;
      return null;
    });
  let before = await readUntilTold();
  let beforeMs = performance.now();
  while (before !== null && (await pause(1000 * options.interval, signal))) {
    const after = await readUntilTold();
    if (after === null) return;
    const nowMs = performance.now();
    show(trafficReport(before, after, (nowMs - beforeMs) / 1000), options);
    [before, beforeMs] = [after, nowMs];
  }
}

/** False when interrupted. */
async function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  await sleep(ms, undefined, { signal }).catch(() => {});
  return !signal.aborted;
}

function show(report: TrafficReport, { json, watch }: TrafficOptions): void {
  print(json ? `${JSON.stringify(report)}\n` : `${trafficText(report)}\n${watch ? '\n' : ''}`);
}

async function read(client: ApiClient, { url }: TrafficOptions, signal: AbortSignal): Promise<ClusterStatus> {
  const status = await readClusterStatus(client, signal);
  if (status === null) throw new CommandFailure(`${url} does not show its status: it is no Switchyard, or needs its --admin-token-file`);
  return status;
}

/** Our own server on this machine tells its token; an open one needs none. */
function connectAsOperator({ url, adminTokenFile }: TrafficOptions): ApiClient {
  if (adminTokenFile !== undefined)
    return new ApiClient({ url, apiKey: readSecret(adminTokenFile, '--admin-token-file'), timeoutMs: requestMsMax });
  const open = new ApiClient({ url, apiKey: null, timeoutMs: requestMsMax });
  return connectToSession(open.baseUrl, requestMsMax) ?? open;
}
