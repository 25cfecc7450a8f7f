import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import { sharedMemory } from '@switchyard/native';
import {
  type DialChoice,
  dialBest,
  dialChoices,
  type Link,
  listenAny,
  SwitchyardError,
  transports,
  useSharedMemory,
} from '@switchyard/proto';
import { CommandFailure, exitStatus } from '../failure.ts';
import type { Check } from './check.ts';
import { ok, warning } from './check.ts';

/** What a decoding step sends per layer. */
const echoBytes = 8 * 1024;
const echoes = 40;
/** An address that does not answer by then is taken for unreachable. */
const probeMs = 3_000;
const options = { token: 'doctor', tls: null };

/** Every transport between two ends on this machine: a frame is really sent there and back. */
export async function checkLocalLinks(): Promise<Check[]> {
  useSharedMemory(sharedMemory);
  const folder = temporaryFolder();
  try {
    const inFolder = folder === null ? [] : [`shm://${folder}/m.shm`, `uds://${folder}/s.sock`];
    const addresses = ['memory://doctor', ...inFolder, 'tcp://127.0.0.1:0', 'grpc://127.0.0.1:0'];
    const checks: Check[] = [];
    for (const { address, why } of dialChoices(addresses)) checks.push(await checkEcho(address, why));
    const chosen = checks.find((check) => check.name !== 'link memory' && check.status === 'ok');
    if (chosen !== undefined) chosen.found = `${chosen.found} · chosen between workers of this machine`;
    return checks;
  } finally {
    if (folder !== null) rmSync(folder, { recursive: true, force: true });
  }
}

/** Null where none can be made: that is a finding of its own (`checkTemporaryFolder`). */
function temporaryFolder(): string | null {
  try {
    return mkdtempSync(path.join(os.tmpdir(), 'switchyard-doctor-'));
  } catch {
    return null;
  }
}

async function checkEcho(address: string, why: string): Promise<Check> {
  const scheme = address.slice(0, address.indexOf('://'));
  try {
    return ok(
      `link ${scheme}`,
      `8 KiB there and back in ${((await echoSeconds(address)) * 1e6).toFixed(0)} µs within this process: ${why}`,
    );
  } catch (error) {
    return warning(`link ${scheme}`, (error as Error).message, 'workers use the next one that works; the message says what this one lacks');
  }
}

/** The shortest of several round trips. */
async function echoSeconds(address: string): Promise<number> {
  const listeners = await listenAny([address], options, (link) => link.onFrame((frame) => link.send(frame)));
  try {
    const link = await dialBest(listeners.addresses, options);
    const seconds = await shortestRoundTrip(link);
    await link.close();
    return seconds;
  } finally {
    await listeners.close();
  }
}

async function shortestRoundTrip(link: Link): Promise<number> {
  const frame = new Uint8Array(echoBytes);
  let arrived: (() => void) | null = null;
  link.onFrame(() => arrived?.());
  let shortest = Number.POSITIVE_INFINITY;
  for (let i = 0; i < echoes; i++) {
    const start = process.hrtime.bigint();
    await Promise.race([
      new Promise<void>((resolve) => {
        arrived = resolve;
        link.send(frame);
      }),
      link.closed.then((error) => {
        throw error ?? new SwitchyardError('link_closed', 'the link was closed');
      }),
    ]);
    shortest = Math.min(shortest, Number(process.hrtime.bigint() - start) * 1e-9);
  }
  return shortest;
}

/** What a worker here would do with the addresses that another one announces, in the order in which it would dial them. @throws CommandFailure naming --link */
export function peerChoices(addresses: readonly string[]): DialChoice[] {
  useSharedMemory(sharedMemory);
  try {
    return dialChoices(addresses);
  } catch (error) {
    throw new CommandFailure(`--link: ${(error as Error).message}`, { status: exitStatus.usage, cause: error });
  }
}

export async function checkPeerAddresses(choices: readonly DialChoice[]): Promise<Check[]> {
  const checks: Check[] = [];
  let chosen = false;
  for (const { address, rank, why } of choices) {
    if (rank === null) {
      checks.push({ name: 'link', status: 'absent', found: `${address}: left out: ${why}`, fix: null });
      continue;
    }
    const problem = await probe(address);
    if (problem !== null)
      checks.push(warning('link', `${address}: does not answer: ${problem}`, 'start the worker there, or open the way to it'));
    else checks.push(ok('link', `${address}: ${chosen ? 'answers, would be next' : 'chosen'}: ${why}`));
    chosen ||= problem === null;
  }
  return checks;
}

/** Whether something answers where the address points: null, or what went wrong. Nobody's token is needed for that. */
async function probe(address: string): Promise<string | null> {
  const scheme = address.slice(0, address.indexOf('://'));
  if (scheme === 'memory') return 'it means the inside of another process';
  if (scheme === 'nats') return probeBroker(address);
  const found = /^[a-z]+:\/\/(?:[0-9a-f]*(\/.*)|\[?([^\]]*?)\]?:(\d+))$/.exec(address);
  if (found === null) return 'no host and port, or path';
  const [, socketPath, host, port] = found;
  if (Number(port ?? 0) > 65_535) return `there is no port ${port}`;
  return new Promise((resolve) => {
    const socket = socketPath === undefined ? net.connect({ host, port: Number(port) }) : net.connect({ path: socketPath });
    const answer = (problem: string | null) => {
      socket.destroy();
      resolve(problem);
    };
    socket.setTimeout(probeMs, () => answer(`nothing within ${probeMs} ms`));
    socket.once('connect', () => answer(null)).once('error', (error) => answer(error.message));
  });
}

/** A broker is reachable when a frame comes back through it, on a subject of our own beside the peer's. */
async function probeBroker(address: string): Promise<string | null> {
  const transport = transports.get('nats')!;
  let throughBroker: number | null = null;
  try {
    const ours = await transport.listen(`${address}-doctor-${randomBytes(4).toString('hex')}`, options, (link) => {
      link.onFrame((frame) => link.send(frame));
    });
    try {
      const link = await transport.dial(ours.address, options);
      throughBroker = await shortestRoundTrip(link);
      await link.close();
    } finally {
      await ours.close();
    }
    await transport.dial(address, options).then((link) => link.close());
    return null;
  } catch (error) {
    // A listener that refuses our token is one that listens.
    return error instanceof SwitchyardError && error.code === 'unauthorized'
      ? null
      : `${throughBroker === null ? '' : `the broker does (8 KiB through it and back in ${(throughBroker * 1e6).toFixed(0)} µs), but `}${(error as Error).message}`;
  }
}
