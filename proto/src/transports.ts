import { SwitchyardError } from './errors.ts';
import { grpcTransport } from './grpc-transport.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, Listener, Transport } from './link.ts';
import { isLocalSocket, schemeOf } from './link-address.ts';
import { MemoryNetwork } from './memory-transport.ts';
import { natsTransport } from './nats-transport.ts';
import { sharedMemoryTransport } from './shared-memory-transport.ts';
import type { SharedMemory } from './shared-region.ts';
import { socketTransport } from './socket-transport.ts';

const table = new Map<string, Transport>(
  [new MemoryNetwork(), socketTransport('uds'), socketTransport('tcp'), grpcTransport(), natsTransport()].map((t) => [t.scheme, t]),
);

/** Every transport by its scheme. `memory` reaches listeners of this process only; `shm` is here once the program has called `useSharedMemory`. */
export const transports: ReadonlyMap<string, Transport> = table;

/** Adds `shm`: mapping memory needs native code, which this package does not import. */
export function useSharedMemory(memory: SharedMemory): void {
  const transport = sharedMemoryTransport(memory);
  table.set(transport.scheme, transport);
}

export interface Listeners {
  /** Best first, as given, with the real ports. */
  addresses: string[];
  close(): Promise<void>;
}

/** Listens on every address, or on none. @throws SwitchyardError `invalid_request` for a scheme nobody implements, else what the transport says */
export async function listenAny(addresses: readonly string[], options: LinkOptions, accept: (link: Link) => void): Promise<Listeners> {
  checkCount(addresses);
  const listeners: Listener[] = [];
  const close = async () => {
    await Promise.all(listeners.map((l) => l.close()));
  };
  try {
    for (const address of addresses) listeners.push(await transportOf(address).listen(address, options, accept));
  } catch (error) {
    await close();
    throw error;
  }
  return { addresses: listeners.map((l) => l.address), close };
}

/**
 * Dials the peer's addresses in `dialOrder` until one answers.
 * @throws SwitchyardError the last failure's code, with every address and its failure in the message; `unauthorized`, `version_mismatch` and `cancelled` at once,
 * for another address would say the same
 */
export async function dialBest(addresses: readonly string[], options: LinkOptions & { signal?: AbortSignal }): Promise<Link> {
  checkCount(addresses);
  const failures: SwitchyardError[] = [];
  for (const address of dialOrder(addresses)) {
    try {
      return await transportOf(address).dial(address, options);
    } catch (error) {
      const failure = error as SwitchyardError;
      if (['unauthorized', 'version_mismatch', 'cancelled'].includes(failure.code)) throw failure;
      failures.push(failure);
    }
  }
  const last = failures.at(-1);
  throw new SwitchyardError(
    last?.code ?? 'link_closed',
    `no way to ${addresses.join(', ')}: ${failures.map((f) => f.message).join('; ') || 'none is reachable from here'}`,
    {
      cause: last,
    },
  );
}

/** What is done with one address of a peer, and why. */
export interface DialChoice {
  address: string;
  /** Lower is dialled sooner; equal ones as the peer ranked them. null: not dialled from here. */
  rank: number | null;
  why: string;
}

/**
 * Memory, shared memory and this machine's Unix sockets first; then what reaches other machines as the peer ranked it; a broker last, for it carries every byte
 * twice. Sockets of other machines and schemes that nobody implements here are left out: they stand at the end.
 */
export function dialChoices(addresses: readonly string[]): DialChoice[] {
  return addresses.map(choiceOf).sort((a, b) => (a.rank ?? Number.POSITIVE_INFINITY) - (b.rank ?? Number.POSITIVE_INFINITY) || 0); // sort keeps the order of equals
}

export function dialOrder(addresses: readonly string[]): string[] {
  return dialChoices(addresses)
    .filter(({ rank }) => rank !== null)
    .map(({ address }) => address);
}

function choiceOf(address: string): DialChoice {
  const scheme = schemeOf(address);
  if (!transports.has(scheme)) return { address, rank: null, why: `there is no transport ${scheme} here` };
  switch (scheme) {
    case 'memory':
      return { address, rank: 0, why: 'inside one process' };
    case 'shm':
    case 'uds':
      if (!isLocalSocket(address)) return { address, rank: null, why: 'it belongs to another machine or another view of the file system' };
      return scheme === 'shm'
        ? { address, rank: 1, why: 'shared memory is the fastest between processes of one machine' }
        : { address, rank: 2, why: 'a Unix socket of this machine, where shared memory is not to be had' };
    case 'nats':
      return { address, rank: 4, why: 'a broker carries every byte twice: only where nothing else answers' };
    default:
      return { address, rank: 3, why: 'reaches other machines; among such the peer ranks' };
  }
}

function transportOf(address: string): Transport {
  const transport = transports.get(schemeOf(address));
  if (transport === undefined)
    throw new SwitchyardError('invalid_request', `address ${address}: the schemes are ${[...transports.keys()].join(', ')}`, {
      param: 'address',
    });
  return transport;
}

function checkCount(addresses: readonly string[]): void {
  if (addresses.length < 1 || addresses.length > limits.addressesMax)
    throw new SwitchyardError('invalid_request', `${addresses.length} addresses, must be 1..${limits.addressesMax}`, {
      param: 'addresses',
    });
}
