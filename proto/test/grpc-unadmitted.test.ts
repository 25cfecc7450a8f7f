import http2 from 'node:http2';
import { afterEach, expect, test, vi } from 'vitest';
import { grpcTransport, type Link, limits, PROTOCOL_VERSION } from '../src/index.ts';

/** Bytes of each frame that memory was asked for. */
const reserved: number[] = vi.hoisted(() => []);
vi.mock('../src/frame-memory.ts', async (original) => {
  const actual = await original<typeof import('../src/frame-memory.ts')>();
  return {
    ...actual,
    frameMemory: (bytes: number) => {
      reserved.push(bytes);
      return actual.frameMemory(bytes);
    },
  };
});

const closing: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
  reserved.length = 0;
});

/** Calls without waiting for the answer, sends `bytes` along, and resolves with what comes of it at both ends. */
async function call(authorization: string, bytes: Buffer) {
  let accept!: (link: Link) => void;
  const accepted = new Promise<Link>((resolve) => {
    accept = resolve;
  });
  const listener = await grpcTransport().listen('grpc://127.0.0.1:0', { token: 'secret', tls: null }, accept);
  closing.push(() => listener.close());
  const session = http2.connect(listener.address.replace('grpc', 'http'));
  closing.push(() => session.destroy());
  session.on('error', () => {});
  const stream = session.request(
    {
      ':method': 'POST',
      ':path': '/switchyard.v1.Data/Exchange',
      'content-type': 'application/grpc',
      te: 'trailers',
      'switchyard-protocol-version': String(PROTOCOL_VERSION),
      authorization,
    },
    { endStream: false },
  );
  stream.on('error', () => {}).resume();
  stream.write(bytes);
  const status = new Promise((resolve) => stream.once('response', (headers) => resolve(headers['grpc-status'])));
  return { status, accepted };
}

function beginning(messageBytes: number): Buffer {
  const bytes = Buffer.alloc(5 + 1000);
  bytes.writeUInt32BE(messageBytes, 1);
  return bytes;
}

test('whoever is not let in has no memory reserved for what it announces', async () => {
  const { status } = await call('Bearer another', beginning(limits.frameBytesMax));
  expect(await status).toBe('16'); // UNAUTHENTICATED
  expect(reserved).toEqual([]);
});

test('whoever is let in has sent the beginning of a message', async () => {
  const { accepted } = await call('Bearer secret', beginning(limits.frameBytesMax));
  await accepted;
  expect(reserved).toEqual([limits.frameBytesMax]);
});

test('what is no message ends a link that was let in, with the reason', async () => {
  const { accepted } = await call('Bearer secret', beginning(limits.frameBytesMax + 1));
  expect(await (await accepted).closed).toMatchObject({ code: 'bad_frame', message: expect.stringContaining('67108865 bytes') });
});
