import { once } from 'node:events';
import net from 'node:net';
import type { NatsConnection } from '@nats-io/transport-node';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { limits, natsTransport } from '../src/index.ts';
import { noNatsServer, startNatsServer } from './nats-server.ts';

/** Connections to servers, in the order in which they were made; each waits for `gate` before its maker hears of it. */
const client = vi.hoisted(() => ({ made: [] as NatsConnection[], gate: Promise.resolve() }));
vi.mock('@nats-io/transport-node', async (original) => {
  const nats = await original<typeof import('@nats-io/transport-node')>();
  return {
    ...nats,
    connect: async (...given: Parameters<typeof nats.connect>) => {
      const connection = await nats.connect(...given);
      client.made.push(connection);
      await client.gate;
      return connection;
    },
  };
});

const options = { token: '', tls: null };
const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

describe('dialling through a server that says nothing', () => {
  it('is given up at once when it is no longer wanted', async () => {
    const silent = net.createServer((socket) => closing.push(() => socket.destroy())).listen(0, '127.0.0.1');
    closing.push(() => silent.close());
    await once(silent, 'listening');
    const unwanted = new AbortController();
    const { port } = silent.address() as net.AddressInfo;
    const dialled = natsTransport().dial(`nats://127.0.0.1:${port}/w0`, { ...options, signal: unwanted.signal });
    dialled.catch(() => {});
    await once(silent, 'connection');
    const startedMs = performance.now();
    unwanted.abort();
    await expect(dialled).rejects.toMatchObject({ code: 'cancelled' });
    expect(performance.now() - startedMs).toBeLessThan(limits.dialTimeoutMs / 4);
  });
});

describe.skipIf(noNatsServer !== null)('a nats listener', () => {
  it('leaves no connection behind that was being made anew when it closed', async () => {
    const server = await startNatsServer();
    closing.push(() => server.stop());
    client.made.length = 0;
    const listener = await natsTransport().listen(`nats://127.0.0.1:${server.port}/w0`, options, () => {});
    let open!: () => void;
    client.gate = new Promise((resolve) => {
      open = resolve;
    });
    await client.made[0].close(); // As some failures do for good.
    await expect.poll(() => client.made.length).toBe(2);
    const closed = listener.close();
    open();
    await closed;
    expect(client.made.map((connection) => connection.isClosed())).toEqual([true, true]);
  });

  it('leaves no connection behind of a dial that was given up while it was made', async () => {
    const server = await startNatsServer();
    closing.push(() => server.stop());
    client.made.length = 0;
    let open!: () => void;
    client.gate = new Promise((resolve) => {
      open = resolve;
    });
    const unwanted = new AbortController();
    const dialled = natsTransport().dial(`nats://127.0.0.1:${server.port}/w0`, { ...options, signal: unwanted.signal });
    dialled.catch(() => {});
    await expect.poll(() => client.made.length).toBe(1);
    unwanted.abort();
    await expect(dialled).rejects.toMatchObject({ code: 'cancelled' });
    open();
    await expect.poll(() => client.made[0].isClosed()).toBe(true);
  });
});
