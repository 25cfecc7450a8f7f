import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, expect, it, vi } from 'vitest';
import { grpcTransport, type Link } from '../src/index.ts';

const options = { token: '', tls: null };
afterEach(() => {
  vi.useRealTimers();
});

it('does not take a peer for silent whose words lay unread while this process stood still', async () => {
  const keepalive = { timeMs: 2_000, timeoutMs: 1_000 };
  let arrived!: (link: Link) => void;
  const accepted = new Promise<Link>((resolve) => {
    arrived = resolve;
  });
  const listener = await grpcTransport().listen('grpc://127.0.0.1:0', options, arrived);
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setInterval', 'clearInterval'] });
  const dialled = await grpcTransport({ keepalive }).dial(listener.address, options);
  const far = await accepted;
  const got = new Promise<Uint8Array>((resolve) => dialled.onFrame(resolve));
  await sleep(1); // Timers fire where others do: before the sockets' turn.
  // From here to the last of them the process reads nothing.
  vi.advanceTimersByTime(2 * keepalive.timeMs);
  far.send(Uint8Array.of(7));
  vi.advanceTimersByTime(keepalive.timeoutMs);
  vi.useRealTimers();
  expect(await Promise.race([got, dialled.closed])).toEqual(Buffer.of(7));
  await dialled.close();
  expect(await dialled.closed).toBeNull();
  await listener.close();
});
