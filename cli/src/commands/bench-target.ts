import { setTimeout as sleep } from 'node:timers/promises';
import { ApiClient } from '../api/client.ts';
import type { ClusterStatus } from '../api/cluster-status.ts';
import { readClusterStatus } from '../api/cluster-status.ts';
import { selectModel } from '../api/models.ts';
import { startOwnServer } from '../cluster/own-server.ts';
import { connectToSession } from '../cluster/session.ts';
import type { UpReport } from '../cluster/up-report.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { TimeReport } from '../load/time-report.ts';
import { timeReport } from '../load/time-report.ts';
import type { WireReport } from '../load/wire-report.ts';
import { wireReport } from '../load/wire-report.ts';
import { readApiKey } from './server-options.ts';

export interface TargetOptions {
  url?: string;
  apiKeyFile?: string;
  /** Flags for the server that is started when there is no url. */
  upFlags: string[];
  timeoutMs: number;
  signal: AbortSignal;
}

/** Reads the workers' counters around a measurement; nulls where the server does not show them. */
export interface ClusterMeter {
  begin(): Promise<void>;
  /** @param tokens null where they are not known, and so nothing a token */
  end(tokens: number | null): Promise<{ wire: WireReport | null; time: TimeReport | null }>;
}

export interface BenchTarget {
  client: ApiClient;
  /** The server is one of ours: its promises hold it to account. */
  switchyard: boolean;
  numericClass: string | null;
  /** Set when the server was started for this measurement. */
  started: UpReport | null;
  cluster: ClusterMeter;
  /** Aborts on the user's wish, and when the server that was started for this ends. */
  signal: AbortSignal;
  /** What ended a measurement early: the end of that server where it has ended, whatever was seen of it. */
  explain(error: Error): Promise<Error>;
}

/** Workers report their counters about once a second; two readings must not fall into the same second. */
const statsPeriodMs = 1200;

/** Runs `use` against the given server, or against one started for it and stopped afterwards. */
export async function withTargetServer<T>(options: TargetOptions, use: (target: BenchTarget) => Promise<T>): Promise<T> {
  // Before there is a server: nobody would stop it for a key file that cannot be read.
  const apiKey = readApiKey(options);
  if (options.url !== undefined) return await useServer(options.url, apiKey, null, options, use);
  const own = await startOwnServer(options.upFlags, (line) => process.stderr.write(`${line}\n`), options.signal);
  const signal = AbortSignal.any([options.signal, own.gone]);
  let explained: Error | null = null;
  const explain = async (error: Error) => {
    const refused = error instanceof CommandFailure && error.status === exitStatus.usage;
    if (options.signal.aborted || refused || error === explained) return error;
    explained = await own.explain(error);
    return explained;
  };
  try {
    return await useServer(own.report.url, apiKey, { report: own.report, explain }, { ...options, signal }, use);
  } catch (error) {
    throw await explain(error as Error);
  } finally {
    await own.stop();
  }
}

async function useServer<T>(
  url: string,
  apiKey: string | null,
  own: { report: UpReport; explain: BenchTarget['explain'] } | null,
  options: TargetOptions,
  use: (target: BenchTarget) => Promise<T>,
): Promise<T> {
  const client = new ApiClient({ url, apiKey, timeoutMs: options.timeoutMs });
  const admin = connectToSession(client.baseUrl, options.timeoutMs) ?? client;
  try {
    const status = await readClusterStatus(admin, options.signal);
    const numericClass = status?.numericClass ?? null;
    return await use({
      client,
      switchyard: status !== null || (await isSwitchyard(client, options.signal)),
      numericClass,
      started: own?.report ?? null,
      cluster: clusterMeter(admin, status !== null, options.signal),
      signal: options.signal,
      explain: own?.explain ?? (async (error) => error),
    });
  } finally {
    client.close();
    if (admin !== client) admin.close();
  }
}

/** A server of ours whose status we may not see says what it is in its list of models. */
async function isSwitchyard(client: ApiClient, signal: AbortSignal): Promise<boolean> {
  return (await selectModel(client, null, signal)).owned_by === 'switchyard';
}

function clusterMeter(admin: ApiClient, available: boolean, signal: AbortSignal): ClusterMeter {
  let before: ClusterStatus | null = null;
  const freshStatus = async () => {
    await sleep(statsPeriodMs, undefined, { signal });
    return await readClusterStatus(admin, signal);
  };
  return {
    async begin() {
      before = available ? await freshStatus() : null;
    },
    async end(tokens) {
      const after = before === null ? null : await freshStatus();
      if (before === null || after === null) return { wire: null, time: null };
      return { wire: tokens === null ? null : wireReport(before, after, tokens), time: timeReport(before, after) };
    },
  };
}
