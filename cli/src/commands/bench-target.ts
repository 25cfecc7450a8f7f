import { ApiClient } from '../api/client.ts';
import type { ClusterStatus } from '../api/cluster-status.ts';
import { readClusterStatus } from '../api/cluster-status.ts';
import { startOwnServer } from '../cluster/own-server.ts';
import { findSession } from '../cluster/session.ts';
import type { UpReport } from '../cluster/up-report.ts';
import { CommandFailure, exitStatus } from '../failure.ts';
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

/** Reads the workers' counters around a measurement; null where the server does not show them. */
export interface WireMeter {
  begin(): Promise<void>;
  end(tokens: number): Promise<WireReport | null>;
}

export interface BenchTarget {
  client: ApiClient;
  /** The server is one of ours: its promises hold it to account. */
  switchyard: boolean;
  numericClass: string | null;
  /** Set when the server was started for this measurement. */
  started: UpReport | null;
  wire: WireMeter;
}

/** Workers report their counters about once a second; two readings must not fall into the same second. */
const statsPeriodMs = 1200;

/** Runs `use` against the given server, or against one started for it and stopped afterwards. */
export async function withTargetServer<T>(options: TargetOptions, use: (target: BenchTarget) => Promise<T>): Promise<T> {
  if (options.url !== undefined && options.upFlags.length > 0)
    throw new CommandFailure(`flags after -- are for a server that is started here, but --url ${options.url} names one that runs`, {
      status: exitStatus.usage,
    });
  const own =
    options.url === undefined ? await startOwnServer(options.upFlags, (line) => process.stderr.write(`${line}\n`), options.signal) : null;
  const url = own?.report.url ?? options.url!;
  const client = new ApiClient({ url, apiKey: readApiKey(options), timeoutMs: options.timeoutMs });
  const session = findSession(client.baseUrl);
  const admin = session ? new ApiClient({ url, apiKey: session.adminToken, timeoutMs: options.timeoutMs }) : client;
  try {
    const status = await readClusterStatus(admin, options.signal);
    const numericClass = status?.numericClass ?? null;
    return await use({
      client,
      switchyard: status !== null,
      numericClass,
      started: own?.report ?? null,
      wire: wireMeter(admin, status !== null, options.signal),
    });
  } finally {
    client.close();
    if (admin !== client) admin.close();
    await own?.stop();
  }
}

function wireMeter(admin: ApiClient, available: boolean, signal: AbortSignal): WireMeter {
  let before: ClusterStatus | null = null;
  const freshStatus = async () => {
    await new Promise((resolve) => setTimeout(resolve, statsPeriodMs));
    return await readClusterStatus(admin, signal);
  };
  return {
    async begin() {
      before = available ? await freshStatus() : null;
    },
    async end(tokens) {
      const after = before === null ? null : await freshStatus();
      return before === null || after === null ? null : wireReport(before, after, tokens);
    },
  };
}
