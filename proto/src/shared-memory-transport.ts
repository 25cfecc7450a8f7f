/**
 * The `shm` transport, between processes of one machine: frames go through two rings of shared memory. A Unix socket introduces the two ends, with the handshake
 * of every framed link; then the dialler offers a region, one frame (u32 ring bytes, 16-byte nonce, name in ASCII), and the listener answers with one zero byte
 * when it has mapped it, or with a refusal. The nonce stands at the region's start: a name could by accident mean another region to the listener.
 */
import { randomBytes } from 'node:crypto';
import { SwitchyardError } from './errors.ts';
import { giveBackFrame } from './frame-memory.ts';
import type { FramedLink } from './framed-link.ts';
import { limits } from './limits.ts';
import type { Link, LinkOptions, Listener, Transport } from './link.ts';
import { refusalFrame, refusalOf } from './link-handshake.ts';
import { SharedMemoryLink } from './shared-memory-link.ts';
import type { SharedMemory, SharedRegion } from './shared-region.ts';
import { REGION_NONCE_BYTES, regionBytes } from './shared-ring.ts';
import { dialSocket, listenOnSocket } from './socket-transport.ts';

export interface SharedMemoryTransportOptions {
  frameBytesMax: number;
  pendingBytesMax: number;
  /** A power of two; both ends must use the same. */
  ringBytes: number;
}

const SCHEME = 'shm';
const ACCEPTED = Uint8Array.of(0);
/** On the socket: the offer, its answer, and wake-ups. Rows travel beside it, so it is their link that waits awake. */
const socketBounds = { frameBytesMax: limits.handshakeBytesMax, pendingBytesMax: limits.handshakeBytesMax, lingers: false };

export function sharedMemoryTransport(memory: SharedMemory, options: Partial<SharedMemoryTransportOptions> = {}): Transport {
  const bounds = {
    frameBytesMax: limits.frameBytesMax,
    pendingBytesMax: limits.linkPendingBytesMax,
    ringBytes: limits.sharedRingBytes,
    ...options,
  };
  return {
    scheme: SCHEME,
    listen: (address, linkOptions, accept) => listen(memory, bounds, address, linkOptions, accept),
    dial: (address, linkOptions) => dial(memory, bounds, address, linkOptions),
  };
}

async function listen(
  memory: SharedMemory,
  bounds: SharedMemoryTransportOptions,
  address: string,
  options: LinkOptions,
  accept: (link: Link) => void,
): Promise<Listener> {
  const links = new Set<SharedMemoryLink>();
  let closing = false;
  const listener = await listenOnSocket(SCHEME, address, socketBounds, options, (socket) => {
    const offered = firstFrame(socket);
    offered.frame.then(
      (offer) => {
        if (closing) {
          void socket.close();
          return;
        }
        const region = acceptOffer(memory, bounds, socket, offer);
        if (region === null) return;
        const link = new SharedMemoryLink(socket, region, 1, bounds);
        offered.onWake(() => link.woken());
        links.add(link);
        void link.closed.then(() => links.delete(link));
        accept(link);
      },
      (error) => void socket.close(error as SwitchyardError),
    );
  });
  return {
    address: listener.address,
    close: async () => {
      closing = true; // The socket is needed until the last link has ended.
      await Promise.all([...links].map((link) => link.close()));
      await listener.close();
    },
  };
}

async function dial(
  memory: SharedMemory,
  bounds: SharedMemoryTransportOptions,
  address: string,
  options: LinkOptions & { signal?: AbortSignal },
): Promise<Link> {
  const { signal } = options;
  const cancelled = () => new SwitchyardError('cancelled', `dialling ${address} was aborted`, { cause: signal?.reason });
  const socket = await dialSocket(SCHEME, address, socketBounds, options);
  const aborted = () => void socket.close(cancelled());
  signal?.addEventListener('abort', aborted, { once: true });
  let region: SharedRegion | undefined;
  try {
    signal?.throwIfAborted();
    region = create(memory, bounds);
    const nonce = randomBytes(REGION_NONCE_BYTES);
    new Uint8Array(region.memory).set(nonce);
    const ringBytes = Buffer.alloc(4);
    ringBytes.writeUInt32LE(bounds.ringBytes);
    const answered = firstFrame(socket);
    socket.send(Buffer.concat([ringBytes, nonce, Buffer.from(region.name, 'latin1')]));
    const answer = await answered.frame;
    signal?.throwIfAborted();
    if (answer.length !== 1) throw refusalOf(answer);
    region.unname();
    const link = new SharedMemoryLink(socket, region, 0, bounds);
    answered.onWake(() => link.woken());
    return link;
  } catch (error) {
    const reason = signal?.aborted ? cancelled() : (error as SwitchyardError);
    region?.release();
    void socket.close(reason);
    throw reason;
  } finally {
    signal?.removeEventListener('abort', aborted);
  }
}

/** The first frame of a socket, waited for as long as a dial may take; those after it are wake-ups. */
function firstFrame(socket: FramedLink): { frame: Promise<Uint8Array>; onWake: (wake: () => void) => void } {
  let wake: (() => void) | null = null;
  let first = true;
  const frame = new Promise<Uint8Array>((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new SwitchyardError('link_closed', `${socket.peer} offered no shared memory within ${limits.dialTimeoutMs} ms`)),
      limits.dialTimeoutMs,
    );
    void socket.closed.then((error) => {
      clearTimeout(timer);
      reject(error ?? new SwitchyardError('link_closed', `${socket.peer} closed before it shared memory`));
    });
    socket.onFrame((received) => {
      if (!first) {
        giveBackFrame(received);
        wake?.();
        return;
      }
      first = false;
      clearTimeout(timer);
      resolve(received);
    });
  });
  frame.catch(ignore); // Whoever awaits it hears of it.
  return {
    frame,
    onWake: (call) => {
      wake = call;
    },
  };
}

function create(memory: SharedMemory, bounds: SharedMemoryTransportOptions): SharedRegion {
  try {
    return memory.create(regionBytes(bounds.ringBytes));
  } catch (error) {
    throw new SwitchyardError('link_closed', (error as Error).message, { cause: error });
  }
}

/** Maps what is offered, and says so. @returns null where there will be no link: the dialler was refused, or has gone */
function acceptOffer(
  memory: SharedMemory,
  bounds: SharedMemoryTransportOptions,
  socket: FramedLink,
  offer: Uint8Array,
): SharedRegion | null {
  let region: SharedRegion;
  try {
    region = openOffered(memory, bounds, offer);
  } catch (error) {
    if (tell(socket, refusalFrame(error as SwitchyardError))) void socket.close();
    return null;
  }
  if (tell(socket, ACCEPTED)) return region;
  region.release();
  return null;
}

/** @returns false where nobody is left to be told: a goodbye, or nonsense, stood right behind the offer */
function tell(socket: FramedLink, answer: Uint8Array): boolean {
  try {
    socket.send(answer);
    return true;
  } catch {
    return false;
  }
}

/** @throws SwitchyardError `bad_frame` for an offer that is none, `link_closed` where the region cannot be mapped */
function openOffered(memory: SharedMemory, bounds: SharedMemoryTransportOptions, offer: Uint8Array): SharedRegion {
  const bytes = Buffer.from(offer.buffer, offer.byteOffset, offer.length);
  const head = 4 + REGION_NONCE_BYTES;
  if (bytes.length <= head)
    throw new SwitchyardError('bad_frame', `an offer of shared memory has ${bytes.length} bytes, needs more than ${head}`, {
      param: 'offer',
    });
  const ringBytes = bytes.readUInt32LE(0);
  if (ringBytes !== bounds.ringBytes)
    throw new SwitchyardError('bad_frame', `rings of ${ringBytes} bytes, must be ${bounds.ringBytes}`, { param: 'offer.ringBytes' });
  const nonce = bytes.subarray(4, head);
  let region: SharedRegion;
  try {
    region = memory.open(bytes.subarray(head).toString('latin1'), regionBytes(ringBytes));
  } catch (error) {
    throw new SwitchyardError('link_closed', (error as Error).message, { cause: error });
  }
  if (nonce.equals(new Uint8Array(region.memory, 0, REGION_NONCE_BYTES))) return region;
  region.release();
  throw new SwitchyardError('link_closed', 'the name of the offered memory means another region here');
}

function ignore(): void {}
