import type { ApiClient } from './client.ts';
import { ApiError } from './client.ts';

/** The part of a coordinator's status (docs/observe.md) that the commands here read. */
export interface ClusterStatus {
  ready: boolean;
  plan: { epoch: number; checksum: string } | null;
  numericClass: string | null;
  workers: {
    name: string;
    node: string;
    state: string;
    residentBytes: number;
    addresses: string[];
    stats: {
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
    } | null;
  }[];
}

/** The status, or null where the server has none: it is not ours, or we may not see it. */
export async function readClusterStatus(client: ApiClient, signal?: AbortSignal): Promise<ClusterStatus | null> {
  try {
    const { body } = await client.get<ClusterStatus>('/v1/switchyard/status', signal);
    return Array.isArray(body.workers) ? body : null;
  } catch (error) {
    if (error instanceof ApiError) return null;
    throw error;
  }
}
