import http2 from 'node:http2';
import net from 'node:net';
import * as grpc from '@grpc/grpc-js';
import { afterEach, describe, expect, it } from 'vitest';
import { FrameReader, windowUpdate, writeHeader } from '../src/http2-frames.ts';
import { grpcTransport, type Link, PROTOCOL_VERSION } from '../src/index.ts';
import { makeCertificates } from './certificates.ts';

const METHOD = '/switchyard.v1.Data/Exchange';
const certificates = makeCertificates();
const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

const asIs = (bytes: Buffer) => bytes;
/** Messages shorter and longer than a frame of HTTP/2, than the window it begins with, and than ours. */
const frames = [1, 100, 16_379, 16_380, 70_000, 1_000_000, 9_000_000, 5].map((bytes, i) => Buffer.alloc(bytes, i + 1));
const optionsOf = (secured: boolean) => ({ token: 'secret', tls: secured ? certificates!.node : null });
const unlimited = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };

function collect(count: number, onFrame: (receive: (frame: Uint8Array) => void) => void): Promise<Uint8Array[]> {
  return new Promise((resolve) => {
    const got: Uint8Array[] = [];
    onFrame((frame) => {
      if (got.push(frame) === count) resolve(got);
    });
  });
}

function statusOf(call: grpc.ClientDuplexStream<Buffer, Buffer>): Promise<grpc.StatusObject> {
  return new Promise((resolve) => call.on('status', resolve));
}

function expectSame(got: Uint8Array[]): void {
  expect(got.map((frame, i) => Buffer.compare(frame, frames[i]))).toEqual(frames.map(() => 0));
}

async function listen(secured: boolean): Promise<{ at: string; accepted: Promise<Link> }> {
  let accept!: (link: Link) => void;
  const accepted = new Promise<Link>((resolve) => {
    accept = resolve;
  });
  const listener = await grpcTransport().listen('grpc://127.0.0.1:0', optionsOf(secured), accept);
  closing.push(() => listener.close());
  return { at: listener.address.slice('grpc://'.length), accepted };
}

function metadata(token = 'secret'): grpc.Metadata {
  const made = new grpc.Metadata();
  made.set('switchyard-protocol-version', String(PROTOCOL_VERSION));
  made.set('authorization', `Bearer ${token}`);
  return made;
}

function stockClient(at: string, secured: boolean): grpc.Client {
  const tls = certificates?.node;
  const credentials = secured
    ? grpc.credentials.createSsl(Buffer.from(tls!.ca!), Buffer.from(tls!.key!), Buffer.from(tls!.cert!))
    : grpc.credentials.createInsecure();
  const names = tls?.serverName == null ? {} : { 'grpc.ssl_target_name_override': tls.serverName };
  const client = new grpc.Client(at, credentials, { ...unlimited, ...(secured ? names : {}) });
  closing.push(() => client.close());
  return client;
}

async function stockServer(secured: boolean, serve: (call: grpc.ServerDuplexStream<Buffer, Buffer>) => void): Promise<string> {
  const server = new grpc.Server(unlimited);
  closing.push(() => server.forceShutdown());
  server.register(METHOD, serve as grpc.handleBidiStreamingCall<Buffer, Buffer>, asIs, asIs, 'bidi');
  const tls = certificates?.node;
  const credentials = secured
    ? grpc.ServerCredentials.createSsl(Buffer.from(tls!.ca!), [
        { private_key: Buffer.from(tls!.key!), cert_chain: Buffer.from(tls!.cert!) },
      ])
    : grpc.ServerCredentials.createInsecure();
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', credentials, (error, bound) => (error === null ? resolve(bound) : reject(error)));
  });
  return `grpc://127.0.0.1:${port}`;
}

describe.each([false, true])('a link and stock gRPC, TLS %s', (secured) => {
  it.skipIf(secured && certificates === null)('exchange messages of all sizes where the client is stock', async () => {
    const { at, accepted } = await listen(secured);
    const call = stockClient(at, secured).makeBidiStreamRequest(METHOD, asIs, asIs, metadata());
    const status = statusOf(call);
    call.on('error', () => {});
    const down = collect(frames.length, (receive) => call.on('data', receive));
    for (const frame of frames) call.write(frame); // before the listener has answered
    const link = await accepted;
    const up = collect(frames.length, (receive) => link.onFrame(receive));
    for (const frame of frames) link.send(frame);
    expectSame(await up);
    expectSame(await down);
    call.end();
    expect(await link.closed).toBeNull();
    expect(await status).toMatchObject({ code: grpc.status.OK });
  });

  it.skipIf(secured && certificates === null)('exchange messages of all sizes where the server is stock', async () => {
    const at = await stockServer(secured, (call) => {
      call.sendMetadata(new grpc.Metadata());
      call.on('data', (message) => call.write(message)).on('end', () => call.end());
    });
    const link = await grpcTransport().dial(at, optionsOf(secured));
    const echoed = collect(frames.length, (receive) => link.onFrame(receive));
    for (const frame of frames) link.send(frame);
    expectSame(await echoed);
    await link.close();
    expect(await link.closed).toBeNull();
  });
});

describe('a link', () => {
  it('tells a stock client why it is refused, and takes its next call on the same connection', async () => {
    const { at, accepted } = await listen(false);
    const client = stockClient(at, false);
    for (const [path, token, code] of [
      [METHOD, 'wrong', grpc.status.UNAUTHENTICATED],
      ['/switchyard.v1.Data/Other', 'secret', grpc.status.UNIMPLEMENTED],
    ] as const) {
      const call = client.makeBidiStreamRequest(path, asIs, asIs, metadata(token)).on('error', () => {});
      expect(await statusOf(call)).toMatchObject({ code });
    }
    const call = client
      .makeBidiStreamRequest(METHOD, asIs, asIs, metadata())
      .on('error', () => {})
      .resume();
    const status = statusOf(call);
    const link = await accepted;
    const got = collect(1, (receive) => link.onFrame(receive));
    call.write(frames[1]);
    expect(Buffer.compare((await got)[0], frames[1])).toBe(0);
    await link.close();
    expect(await status).toMatchObject({ code: grpc.status.OK });
  });

  it('fails by the status that a stock server ends with', async () => {
    const at = await stockServer(false, (call) => {
      call.sendMetadata(new grpc.Metadata());
      call.on('data', () => call.emit('error', { code: grpc.status.INTERNAL, details: 'no more: 100 %' }));
    });
    const link = await grpcTransport().dial(at, optionsOf(false));
    link.send(frames[0]);
    expect(await link.closed).toMatchObject({ code: 'link_closed', message: expect.stringContaining('no more: 100 %') });
  });

  it('ends with the stream of a server that gives no status', async () => {
    const server = http2.createServer().on('stream', (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' });
      stream.on('error', () => {}).on('data', () => stream.end());
    });
    closing.push(() => server.close());
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const link = await grpcTransport().dial(`grpc://127.0.0.1:${(server.address() as net.AddressInfo).port}`, optionsOf(false));
    link.send(frames[0]);
    expect(await link.closed).toMatchObject({ code: 'link_closed', message: expect.stringContaining('without a status') });
  });

  it.each([
    ['at once', true, 'queue_full'],
    ['later', false, 'bad_frame'],
  ])('that a stock server ends %s because something is exhausted is refused, or had sent too much', async (_, atOnce, code) => {
    const at = await stockServer(false, (call) => {
      if (!atOnce) call.sendMetadata(new grpc.Metadata());
      setImmediate(() => call.emit('error', { code: grpc.status.RESOURCE_EXHAUSTED, details: 'too much' }));
    });
    const ended = grpcTransport()
      .dial(at, optionsOf(false))
      .then(({ closed }) => closed)
      .catch((error) => error);
    expect(await ended).toMatchObject({ code });
  });

  it('takes padded frames, messages cut anywhere and several in one frame', async () => {
    const { at, accepted } = await listen(false);
    const session = http2.connect(`http://${at}`, { paddingStrategy: http2.constants.PADDING_STRATEGY_MAX });
    closing.push(() => session.destroy());
    session.on('error', () => {});
    const stream = session.request(
      {
        ':method': 'POST',
        ':path': METHOD,
        'content-type': 'application/grpc',
        te: 'trailers',
        'switchyard-protocol-version': String(PROTOCOL_VERSION),
        authorization: 'Bearer secret',
      },
      { endStream: false },
    );
    stream.on('error', () => {}).resume();
    const link = await accepted;
    const got = collect(frames.length, (receive) => link.onFrame(receive));
    const bytes = Buffer.concat(
      frames.flatMap((frame) => {
        const prefix = Buffer.alloc(5);
        prefix.writeUInt32BE(frame.length, 1);
        return [prefix, frame];
      }),
    );
    for (let at = 0, size = 1; at < bytes.length; at += size, size = (size * 7 + 3) % 50_000) stream.write(bytes.subarray(at, at + size));
    expectSame(await got);
    stream.end();
    expect(await link.closed).toBeNull();
  });
});

const PREFACE_BYTES = 24;
const [FRAME_BYTES_MAX, INITIAL_WINDOW] = [5, 4]; // names in SETTINGS

function http2Frame(type: number, flag: number, stream: number, payload: Buffer): Buffer {
  const head = Buffer.alloc(9);
  writeHeader(head, payload.length, type, flag, stream);
  return Buffer.concat([head, payload]);
}

function settings(...entries: [name: number, value: number][]): Buffer {
  const payload = Buffer.alloc(6 * entries.length);
  for (const [i, [name, value]] of entries.entries()) {
    payload.writeUInt16BE(name, 6 * i);
    payload.writeUInt32BE(value, 6 * i + 2);
  }
  return http2Frame(4, 0, 0, payload);
}

/** A server that takes any call and counts what it is sent; its end of the connection is the test's. */
async function bareServer(): Promise<{ at: string; seen: { frames: number; bytes: number }; write: (bytes: Buffer) => void }> {
  const seen = { frames: 0, bytes: 0 };
  let connected!: net.Socket;
  const server = net.createServer((socket) => {
    connected = socket;
    const reader = new FrameReader(
      {
        dataBegins: (_stream, bytes) => {
          seen.frames++;
          seen.bytes += bytes;
          return null;
        },
        dataEnds: () => {},
        headersBegin: () => socket.write(http2Frame(1, 4, 1, Buffer.of(0x88))), // ":status: 200"
        inspect: () => {},
        pass: () => {},
      },
      PREFACE_BYTES,
    );
    socket.on('data', (chunk) => reader.push(chunk)).on('error', () => {});
    socket.write(settings());
  });
  closing.push(() => {
    connected.destroy();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as net.AddressInfo;
  return { at: `grpc://127.0.0.1:${port}`, seen, write: (bytes) => connected.write(bytes) };
}

describe('a peer that asks for frames of another size', () => {
  const room = Buffer.concat([windowUpdate(0, 2 ** 30), windowUpdate(1, 2 ** 30)]);

  it.each([0, 1, 16_383, 2 ** 24, 2 ** 32 - 1])('ends the link with bad_frame: %d bytes', async (bytesMax) => {
    const { at, seen, write } = await bareServer();
    const link = await grpcTransport().dial(at, optionsOf(false));
    link.send(new Uint8Array(300_000));
    write(Buffer.concat([settings([FRAME_BYTES_MAX, bytesMax]), room]));
    expect(await link.closed).toMatchObject({ code: 'bad_frame', message: expect.stringContaining(`frames of ${bytesMax} bytes`) });
    expect(seen.frames).toBeLessThanOrEqual(5); // what HTTP/2's first window takes
  });

  it.each([16_384, 2 ** 24 - 1])('is sent no larger ones: %d bytes', async (bytesMax) => {
    const { at, seen, write } = await bareServer();
    const link = await grpcTransport().dial(at, optionsOf(false));
    write(Buffer.concat([settings([FRAME_BYTES_MAX, bytesMax], [INITIAL_WINDOW, 2 ** 20]), room]));
    link.send(new Uint8Array(300_000));
    while (seen.bytes < 300_005) await new Promise((resolve) => setTimeout(resolve, 5));
    expect(seen.frames).toBeGreaterThanOrEqual(300_005 / bytesMax);
    void link.close();
  });
});
