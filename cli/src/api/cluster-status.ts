import type { RecordingStatus } from '../trace/recording.ts';
import type { ApiClient } from './client.ts';
import { ApiError } from './client.ts';
import { ForeignAnswer } from './json-answer.ts';

/** The part of a coordinator's status (docs/observe.md) that the commands here read. */
export interface ClusterStatus {
  format: 'switchyard-status';
  model: string;
  numericClass: string;
  ready: boolean;
  plan: {
    epoch: number;
    checksum: string;
    moeLayers: number[];
    experts: number;
    topK: number;
    /** Of a row on its way to experts; null where the checkpoint does not say how wide it is. */
    rowBytes: number | null;
    /** What the plan promises on its trace; null: nothing. */
    prediction: { remoteNodes: number; homeShare: number } | null;
  };
  requests: {
    /** Of sequences that have ended. */
    traffic: { rows: number; remoteNodes: number; visits: number; homeVisits: number; interNodeBytes: number; intraNodeBytes: number };
  };
  homes: { choices: Record<string, number> };
  /** The recording that is being made. */
  trace: RecordingStatus | { on: false };
  workers: {
    name: string;
    node: string;
    state: 'absent' | 'loading' | 'loaded' | 'ready' | 'failed';
    /** Of its process; null while there is none. */
    pid: number | null;
    /** Of loading, 0 to 1. */
    progress: number;
    loading: string | null;
    failure: string | null;
    /** (layer, expert) replicas that it holds. */
    experts: number;
    residentBytes: number;
    addresses: string[];
    stats: WorkerCounters | null;
  }[];
}

/** What a worker has counted since it started. */
export interface WorkerCounters {
  steps: number;
  promptTokens: number;
  generatedTokens: number;
  /** Of its main thread, by what they were spent on; together all the time that has passed. */
  seconds: Record<string, number>;
  /** (row, layer) pairs of its own sequences that went through MoE layers, and the sum of distinct remote nodes over those. */
  rowsDispatched: number;
  remoteNodesVisited: number;
  links: {
    peer: string;
    transport: string;
    bytesSent: number;
    bytesReceived: number;
    framesSent: number;
    roundTripSeconds: number;
    roundTrips: number;
  }[];
}

/** Of a status: the most workers that a plan may have, each with a link to each, at 200 bytes a link. */
const statusBytesMax = 256 * 1024 * 1024;

/** What a server says that may have one and cannot tell now. Anything else is said of paths that it does not have, or that we may not see: another's, and ours without its admin token. */
function mayHaveOne({ status }: ApiError): boolean {
  return status === 429 || (status >= 500 && status !== 501);
}

/** The status, or null where the server has none: it is not ours, or we may not see it. Others answer any path with a page. */
export async function readClusterStatus(client: ApiClient, signal?: AbortSignal): Promise<ClusterStatus | null> {
  try {
    const { body } = await client.get<ClusterStatus>('/v1/switchyard/status', signal, statusBytesMax);
    return body.format === 'switchyard-status' ? body : null;
  } catch (error) {
    if (error instanceof ForeignAnswer || (error instanceof ApiError && !mayHaveOne(error))) return null;
    throw error;
  }
}
