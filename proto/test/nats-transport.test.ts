import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterEach, describe, expect, it } from 'vitest';
import { type Link, type LinkTls, type Listener, limits, natsTransport } from '../src/index.ts';
import { makeCertificates } from './certificates.ts';
import { type NatsServer, noNatsServer, startNatsServer } from './nats-server.ts';

const options: { token: string; tls: LinkTls | null } = { token: 'broker', tls: null };
const peerScript = fileURLToPath(new URL('fixtures/peer.mjs', import.meta.url));
const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function server(config = '', port = -1): Promise<NatsServer> {
  const started = await startNatsServer(config, port);
  closing.push(() => started.stop());
  return started;
}

interface Joined {
  dialled: Link;
  accepted: Link;
  listener: Listener;
}

/** Both ends of a link. Nobody receives at the listener's but who `accept` lets. */
async function joined(port: number, accept: (link: Link) => void = () => {}, using = options): Promise<Joined> {
  let arrived!: (link: Link) => void;
  const accepted = new Promise<Link>((resolve) => {
    arrived = resolve;
  });
  const listener = await natsTransport().listen(`nats://127.0.0.1:${port}/w0`, using, (link) => {
    accept(link);
    arrived(link);
  });
  closing.push(() => listener.close());
  const dialled = await natsTransport().dial(listener.address, using);
  closing.push(() => dialled.close());
  return { dialled, accepted: await accepted, listener };
}

/** The same; the listener's end echoes. */
function echoing(port: number, using = options): Promise<Joined> {
  return joined(port, (link) => link.onFrame((frame) => link.send(frame)), using);
}

function next(link: Link): Promise<Uint8Array> {
  return new Promise((resolve) => link.onFrame(resolve));
}

async function outsider(port: number): Promise<NatsConnection> {
  const connection = await connect({ servers: `127.0.0.1:${port}` });
  closing.push(() => connection.close());
  return connection;
}

describe.skipIf(noNatsServer !== null)(`nats${noNatsServer === null ? '' : ` (${noNatsServer})`}`, () => {
  it('cuts frames into what the server takes', async () => {
    const { port } = await server('max_payload: 1024');
    const { dialled } = await echoing(port);
    const frame = randomBytes(300_001);
    const echoed = next(dialled);
    dialled.send(frame);
    expect(Buffer.compare(await echoed, frame)).toBe(0);
  });

  it.each([
    ['repeated', (message: Uint8Array) => message],
    ['lost before it', (message: Uint8Array) => raise(message, 5)],
  ])('closes a link whose message was %s', async (_, edit) => {
    const { port } = await server();
    const spy = await outsider(port);
    let seen: { subject: string; data: Uint8Array } | null = null;
    spy.subscribe('w0.*.up', {
      callback: (_error, message) => {
        seen = { subject: message.subject, data: Uint8Array.from(message.data) };
      },
    });
    await spy.flush();
    const { dialled, accepted } = await echoing(port);
    const echoed = next(dialled);
    dialled.send(Uint8Array.of(1));
    await echoed;
    await spy.flush();
    spy.publish(seen!.subject, edit(seen!.data));
    expect(await accepted.closed).toMatchObject({ code: 'link_closed', message: expect.stringMatching(/lost or repeated/) });
    expect(await dialled.closed).toMatchObject({ code: 'link_closed' });
  });

  it.each([
    ['shorter than its header', () => Uint8Array.of(1, 2, 3)],
    ['of an unknown kind', (due: number) => message(due, 9)],
    ['crediting more than was sent', (due: number) => message(due, 2, Uint8Array.of(0xff, 0xff, 0xff, 0x7f))],
    ['of more bytes than were allowed', (due: number) => message(due, 1, new Uint8Array(900_000)), 3],
  ])('closes a link with bad_frame for a message %s', async (_, make, times = 1) => {
    const { port } = await server();
    const spy = await outsider(port);
    let subject = '';
    let due = 0;
    spy.subscribe('w0.*.up', {
      callback: (_error, { subject: seen, data }) => {
        subject = seen;
        if (data.length < 8) return; // our own
        due = Buffer.from(data).readUInt32LE(0) + 1;
      },
    });
    await spy.flush();
    // Nobody receives: what comes in piles up.
    const { dialled, accepted } = await joined(port);
    await spy.flush();
    for (let i = 0; i < times; i++) spy.publish(subject, make(due + i));
    expect(await accepted.closed).toMatchObject({ code: 'bad_frame' });
    expect(await dialled.closed).toMatchObject({ code: 'link_closed' });
  });

  it('has no more on its way to who does not receive than the credit allows', async () => {
    const { port } = await server();
    const spy = await outsider(port);
    let sentBytes = 0;
    spy.subscribe('w0.*.up', {
      callback: (_error, { data }) => {
        if (data[4] === 1) sentBytes += data.length - 8;
      },
    });
    await spy.flush();
    const { dialled, accepted } = await joined(port);
    const count = 32;
    for (let i = 0; i < count; i++) dialled.send(new Uint8Array(2 ** 20).fill(i));
    for (let before = -1; before !== sentBytes; await sleep(300)) before = sentBytes;
    // Frames kept early, the messages that fill the stream's own buffer, and the credit.
    expect(sentBytes).toBeLessThan(limits.linkEarlyBytesMax + 4 * limits.natsMessageBytes + limits.natsWindowBytes);
    const got: number[] = [];
    await new Promise<void>((resolve) => {
      accepted.onFrame((frame) => {
        if (got.push(frame[0]) === count) resolve();
      });
    });
    expect(got).toEqual(Array.from({ length: count }, (_, i) => i));
  });

  it('waits for a listener that is busy for longer than a heartbeat', async () => {
    const { port } = await server();
    const address = `nats://127.0.0.1:${port}/w0`;
    const child = spawn(process.execPath, [peerScript, 'listen', address], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, PEER_OPTIONS: JSON.stringify(options) },
    });
    closing.push(async () => child.kill('SIGKILL'));
    await once(child.stdout, 'data'); // it listens
    child.kill('SIGSTOP');
    const dialling = natsTransport({ heartbeatMs: 50, heartbeatsMissedMax: 1000 }).dial(address, options);
    await sleep(500);
    child.kill('SIGCONT');
    const dialled = await dialling;
    const echoed = next(dialled);
    dialled.send(Uint8Array.of(4));
    expect((await echoed)[0]).toBe(4);
    await dialled.close();
  });

  it('leaves no timer behind where nobody listens', async () => {
    const { port } = await server();
    const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === 'Timeout').length;
    await sleep(100); // so that the test runner's own have run out
    const before = timers();
    await expect(natsTransport().dial(`nats://127.0.0.1:${port}/w0`, options)).rejects.toMatchObject({ code: 'link_closed' });
    for (let i = 0; i < 50 && timers() > before; i++) await sleep(20);
    expect(timers()).toBeLessThanOrEqual(before);
  });

  it('says at once that the server does not let it receive', async () => {
    const user = '{ user: any, password: any, permissions: { subscribe: { deny: ["*.*.down"] } } }';
    const { port } = await server(`authorization { users: [${user}] }\nno_auth_user: any`);
    const listener = await natsTransport().listen(`nats://127.0.0.1:${port}/w0`, options, () => {});
    closing.push(() => listener.close());
    const message = expect.stringMatching(/permission/i);
    await expect(natsTransport().dial(listener.address, options)).rejects.toMatchObject({ code: 'link_closed', message });
  }, 5_000); // The handshake's own limit is ten seconds.

  it('has one listener on a subject', async () => {
    const { port } = await server();
    const { listener } = await echoing(port);
    await expect(natsTransport().listen(listener.address, options, () => {})).rejects.toMatchObject({
      code: 'link_closed',
      message: expect.stringMatching(/in use/),
    });
  });

  it('ends links with a server that dies, and listens again when there is one', async () => {
    const first = await server();
    const { dialled, accepted, listener } = await echoing(first.port);
    await first.stop();
    dialled.send(new Uint8Array(1_000_000)); // lost with the server
    await server('', first.port);
    // What was lost is noticed by the first message that comes through again.
    for (const end of [accepted, dialled]) expect(await end.closed).toMatchObject({ code: 'link_closed' });
    let again: Link | null = null;
    while (again === null)
      again = await natsTransport()
        .dial(listener.address, options)
        .catch(() => sleep(50, null));
    closing.push(() => again!.close());
    const echoed = next(again);
    again.send(Uint8Array.of(9));
    expect((await echoed)[0]).toBe(9);
  });

  it('says that there is no server', async () => {
    const { port, stop } = await server();
    await stop();
    const message = expect.stringMatching(/no NATS server on 127\.0\.0\.1:\d+/);
    await expect(natsTransport().dial(`nats://127.0.0.1:${port}/w0`, options)).rejects.toMatchObject({ code: 'link_closed', message });
    await expect(natsTransport().listen(`nats://127.0.0.1:${port}/w0`, options, () => {})).rejects.toMatchObject({ message });
  });

  it.each(['nats://h:1', 'nats://h:1/', 'nats://h/w0', 'nats://h:1/w 0', 'nats://h:1/w0.*', 'nats://h:1/>', 'tcp://h:1/w0'])(
    'refuses the address %s',
    async (address) => {
      await expect(natsTransport().dial(address, options)).rejects.toMatchObject({ code: 'invalid_request' });
    },
  );

  const certificates = makeCertificates();
  it.skipIf(certificates === null)('speaks mutual TLS to a server that asks for it', async () => {
    const { node, stranger } = certificates!;
    const { port } = await server(tlsConfig(node));
    const secured = { token: 'broker', tls: node };
    const { dialled } = await echoing(port, secured);
    const echoed = next(dialled);
    dialled.send(Uint8Array.of(3));
    expect((await echoed)[0]).toBe(3);
    for (const tls of [stranger, { ...node, cert: null, key: null }])
      await expect(
        natsTransport({ dialTimeoutMs: 500 }).dial(`nats://127.0.0.1:${port}/w0`, { token: 'broker', tls }),
      ).rejects.toMatchObject({ code: 'link_closed' });
  });
});

/** The server's own part of the certificates, as files that it reads. */
function tlsConfig({ ca, cert, key }: LinkTls): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'sy-nats-tls-'));
  closing.unshift(async () => rmSync(folder, { recursive: true }));
  const file = (name: string, bytes: Uint8Array | null) => {
    writeFileSync(path.join(folder, name), bytes!);
    return JSON.stringify(path.join(folder, name));
  };
  return `tls { cert_file: ${file('cert', cert)}, key_file: ${file('key', key)}, ca_file: ${file('ca', ca)}, verify: true }`;
}

function message(sequence: number, kind: number, body = new Uint8Array(0)): Uint8Array {
  const made = Buffer.alloc(8 + body.length);
  made.writeUInt32LE(sequence, 0);
  made[4] = kind;
  made.set(body, 8);
  return made;
}

function raise(sent: Uint8Array, by: number): Uint8Array {
  const raised = Buffer.from(sent);
  raised.writeUInt32LE(raised.readUInt32LE(0) + by, 0);
  return raised;
}
